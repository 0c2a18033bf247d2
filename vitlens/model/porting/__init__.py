"""From a timm module to the parts of a HookedViT: every parameter adopted, every unknown part refused by name.

One file per level: `models` (one function per class of timm models), `blocks` (one per class of blocks), `attention`,
`mlp`, `pooling`, and `parts` (norms, linear maps, and how the unknown is refused).
"""

from vitlens.model.porting.models import Parts, port
from vitlens.model.porting.state import move

__all__ = ["Parts", "move", "port"]
