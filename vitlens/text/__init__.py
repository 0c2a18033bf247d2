"""Words: the text tower of a model trained with text, whose sentences are classes, and names for parts of the network."""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
