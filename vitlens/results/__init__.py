"""What analyses return: tensors whose axes have names and labels, that become tables, figures and files.

`Result` is the base of all: `values`, `axes`, `to_frame()`, `plot()`, `save(path)`; `Result.load(path)` reads what
was saved.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
