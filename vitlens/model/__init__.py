"""The vision transformer with named hook points, and everything that loads, runs and rewrites it.

`HookedViT.from_timm` makes one from a timm name, a checkpoint or a timm module. Folders: `parts` computes, `hooks`
reads and edits by name, `porting` converts timm modules, `checkpoints` reads weight files, `weights` stacks and
rewrites weights, `class_space` projects onto the classes, `runs` runs parts of the model and batches of pictures.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
