"""Pictures, their masks and their class names, before any model sees them.

`open_pictures` opens a folder, a data set of the hub or "demo" and streams it. `replace_context` makes counterfactual
pictures: the object stays and its surroundings are replaced. `Masks` says where the object is and what is void.
Every call that takes `masks=` reads paths, PIL images, arrays and tensors as well.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
