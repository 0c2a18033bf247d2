"""Key-value memories: the classes that MLP neurons and attention values stand for.

`read_memories` projects the value of every memory onto the classes; `key_value_agreement` and `class_value_agreement`
compare them with what the keys respond to and with the class predicted. `top_memory_patches` shows the patches that
excite a memory.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
