"""What analyses return: tensors whose axes have names and labels, that become tables, figures and files.

`Result` is the base of all: `values`, `axes`, `to_frame()`, `to_xarray()`, `plot()`, `save(path)`;
`load_result(path)` reads what was saved. Labels of axes are text that knows what it names: `TokenLabel`,
`ComponentLabel`.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
