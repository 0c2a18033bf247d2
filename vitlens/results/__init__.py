"""What analyses return: tensors with named and labelled axes, which become tables, figures and files.

`Result` is the base class: `values`, `axes`, `to_frame()`, `to_xarray()`, `plot()`, `save(path)`;
`load_result(path)` reads a saved result. Labels of axes are strings with attributes, such as the row and column
of a patch: `TokenLabel`, `ComponentLabel`.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
