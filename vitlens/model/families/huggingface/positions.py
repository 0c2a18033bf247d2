"""Positions at another picture size, as Hugging Face interpolates them when it runs."""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State


@torch.no_grad()
def resize_positions(
    ours: State,
    keywords: dict[str, Any],
    size: Sequence[int] | None,
    in_every_run: bool = False,
    antialias: bool = False,
) -> tuple[State, dict[str, Any]]:
    """Tensors and keywords of the model for pictures of this size; None for its own.

    Args:
        ours: the tensors by timm's names.
        keywords: of timm's class, for the model's own size.
        in_every_run: as DINOv2 does it: in float32, and for its own size too where pictures are no squares.
        antialias: average where the new grid is coarser.

    Raises:
        InputError: pictures without a patch, or the model's own positions are those of no square.
    """
    if size is None or (tuple(size) == tuple(keywords["img_size"]) and not in_every_run):
        return ours, keywords
    grid = patches_of_size(size, keywords["patch_size"])
    positions = ours["pos_embed"]
    n_prefix = sum(ours[name].shape[1] for name in ("cls_token", "dist_token") if name in ours)
    n_patches = positions.shape[1] - n_prefix
    side = isqrt(n_patches)
    if side**2 != n_patches:
        raise InputError(
            f"img_size: Hugging Face interpolates the positions of a square alone, and these are {n_patches}"
        )
    if grid != (side, side) or size[0] != size[1]:
        prefix, patches = positions[:, :n_prefix], positions[:, n_prefix:]
        patches = interpolate_grid(patches, (side, side), grid, in_float32=in_every_run, antialias=antialias)
        ours = ours | {"pos_embed": torch.cat([prefix, patches], dim=1)}
    return ours, keywords | {"img_size": tuple(size)}


def interpolate_grid(
    patches: Float[Tensor, "1 patches d"], old: tuple[int, int], new: tuple[int, int], in_float32: bool, antialias: bool
) -> Float[Tensor, "1 new_patches d"]:
    """A grid of vectors, one after the other, in another number of rows and columns: bicubic."""
    table = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)
    table = table.float() if in_float32 else table
    table = F.interpolate(table, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return table.to(patches.dtype).permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)


def patches_of_size(size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of whole patches in pictures of this size.

    Raises:
        InputError: there are none.
    """
    rows, columns = size[0] // patch_size[0], size[1] // patch_size[1]
    if not rows or not columns:
        raise InputError(
            f"img_size: pictures of {size[0]} × {size[1]} hold no patch of {patch_size[0]} × {patch_size[1]}"
        )
    return rows, columns
