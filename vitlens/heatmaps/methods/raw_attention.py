"""Raw attention: the attention of the class token (or of the pooled tokens) to each patch, not class-specific."""

from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.last_attention import last_pattern_name, reads_by_attention, run_and_read
from vitlens.heatmaps.shared.reading import read_weights
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name


def raw_attention(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    *,
    block: int = -1,
    head: int | None = None,
) -> Float[Tensor, "image patch"]:
    """The pattern's row that is read: Σ_q w_q A[q, j], with w_q what token q counts for the classifier (`read_weights`).

    The class token's row; where patches are pooled, the mean over the rows of what is pooled. The map has no class. It is
    not negative, but for differential attention, whose pattern is the difference of two softmaxes.

    Args:
        block: whose pattern. In a model with attention pooling −1 is the pool's own pattern, which is its last attention;
            the last block's has that block's number.
        head: one head, of the pool where its pattern is meant; by default the mean over heads.

    Raises:
        InputError: a block or head that does not exist.

    Source: Dosovitskiy et al. 2021 show such maps; Caron et al. 2021 (DINO) draw the class token's row in the last block.
    """
    own = block == -1 and reads_by_attention(model)
    index = model.block_index(block)
    name = last_pattern_name(model) if own else hook_name(index, "attn.pattern")
    attention: Any = model.pool if own else model.blocks[index].attn
    n_heads = attention.n_heads
    if head is not None and not -n_heads <= head < n_heads:
        raise InputError(f"there is no head {head}: this attention has heads 0 to {n_heads - 1}")
    maps: list[Float[Tensor, "image query key"]] = []

    def keep(pattern: Float[Tensor, "image head query key"]) -> None:
        maps.append(pattern.mean(dim=1) if head is None else pattern[:, head])

    last = run_and_read(model, images, [(name, keep)])
    if own:
        row = torch.zeros_like(last[..., 0])
        row[:, model.pool.tokens] = maps[0][:, 0]
    else:
        row = einsum(read_weights(model, last), maps[0], "b q, b q k -> b k")
    return row[:, model.cfg.n_prefix_tokens :]
