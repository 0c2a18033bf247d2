"""From finding to fixing: which parts of a model carry a shortcut, and what the model gains and loses without them.

`read_groups` reads the groups of pictures that are compared.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
