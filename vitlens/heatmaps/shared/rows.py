"""How many rows one forward has: as given, or as many as the free memory holds."""

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import require_whole
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.patching.sweep import bytes_per_row

#: More rows than these make no forward faster by much.
MOST_ROWS, MOST_PICTURES = 64, 16


def rows_at_once(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    asked: int | None,
    *,
    gradients: bool,
    most: int = MOST_ROWS,
) -> int:
    """How many rows a forward has: as asked; else at most `most`, and what a quarter of the free memory holds.

    Args:
        images: of the size of a row.
        gradients: what every block computed is kept for a backward.

    Raises:
        InputError: fewer than one row, or no whole number.
    """
    require_whole(batch_size=asked if asked is not None else most)
    if asked is not None:
        if asked < 1:
            raise InputError(f"a forward has at least one row, that is at least one picture (batch_size), not {asked}")
        return asked
    rows, columns = model.embed.grid(*images.shape[-2:])
    each = bytes_per_row(model, model.cfg.n_prefix_tokens + rows * columns, watches_pattern=True)
    each *= model.cfg.n_layers if gradients else 1
    return max(1, min(most, free_bytes(model.device) // 4 // each))


def free_bytes(device: torch.device) -> int:
    """What is free where the model computes."""
    if device.type == "cuda":
        # What torch holds in reserve is free too.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return psutil.virtual_memory().available
