"""The command line, and what scripts share with it: options, the model that they mean, and how errors end.

`run(app)` runs a typer application as `vitlens` itself runs: what is wrong with the input is one sentence on stderr and exit
code 2. A parameter `model: ModelOptions` of a command decorated by `with_model` is an option for each of its fields.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
