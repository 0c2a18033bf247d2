"""Key-value memories: the classes that the value vectors of MLP neurons and of attention promote.

`read_memories` projects value vectors onto the classes. `class_value_agreement` compares them with the class
embeddings, `key_value_agreement` with the memories that fire on pictures of a class. `top_memory_patches` shows
the patches on which a memory fires most.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
