"""From finding to fixing: which parts of a model carry a shortcut, and what the model gains and loses without them.

`find_shortcut` compares what parts write for the class in groups of pictures, and ablates them. `read_groups` reads
groups, and `propose_groups` makes them from what the context alone says.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
