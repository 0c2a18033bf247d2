"""Converts a timm module into the parts of a HookedViT: it shares every parameter, and unknown parts are refused by name.

One file per level: `models` (one function per class of timm models), `blocks` (one per class of blocks), `attention`,
`mlp`, `pooling`, and `parts` (norms, linear maps, and how the unknown is refused).
"""

from vitlens.model.porting.models import Parts, port
from vitlens.model.porting.state import move

__all__ = ["Parts", "move", "port"]
