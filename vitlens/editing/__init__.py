"""From finding to fixing: which part of a model carries a shortcut, how it is removed, and what that costs.

`find_shortcut` compares what parts write in groups of pictures. `edit` silences, replaces or scales parts, or removes
directions, by hooks or in the weights. `repair` chooses an edit on one half of the pictures and reports on the other.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
