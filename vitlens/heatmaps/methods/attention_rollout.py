"""Attention rollout: attention patterns multiplied through the blocks, not class-specific."""

from collections.abc import Callable

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.last_attention import run_and_read
from vitlens.heatmaps.shared.reading import read_weights
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name

#: How several heads' weights become one.
FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda pattern: pattern.mean(dim=1),
    "max": lambda pattern: pattern.amax(dim=1),
    "min": lambda pattern: pattern.amin(dim=1),
}


def attention_rollout(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    *,
    discard: float = 0.0,
    fusion: str = "mean",
) -> Float[Tensor, "image patch"]:
    """Rollout: Ā_l = ½ A_l + ½ I with rows scaled to sum to 1; the row w Ā_L … Ā_1, with w what the tokens count.

    w is `read_weights`: 1 at the class token, or what the pooling makes of it. Only that row is followed, from the last
    block to the first, so no product of whole matrices is made. The map has no class and is not negative; with the prefix
    tokens' share it sums to 1. Negative weights of differential attention count as no attention.

    Args:
        discard: of each block's fused matrix [token, token] of a picture, this share of the entries whose key is a patch,
            the lowest of all of them together (their number rounded down), is set to 0 before ½ I is added. Attention to
            prefix tokens is kept.
        fusion: over the heads: "mean", as published, "max" or "min".

    Raises:
        InputError: a share that is not in [0, 1), an unknown fusion.

    Source: Abnar & Zuidema 2020 (Quantifying Attention Flow), section 3 and equation 1; `discard`, "max" and "min" are
    widespread additions.
    """
    if not 0 <= discard < 1:
        raise InputError(f"the share to discard is at least 0 and less than 1, not {discard}")
    if fusion not in FUSIONS:
        raise InputError(f"the fusion of heads is one of {', '.join(FUSIONS)}, not {fusion!r}")
    fused: list[Float[Tensor, "image query key"]] = []

    def keep(pattern: Float[Tensor, "image head query key"]) -> None:
        fused.append(_without_lowest(FUSIONS[fusion](pattern).clamp(min=0), discard, model.cfg.n_prefix_tokens))

    names = [hook_name(block, "attn.pattern") for block in range(model.cfg.n_layers)]
    row = read_weights(model, run_and_read(model, images, [(name, keep) for name in names]))
    for matrix in reversed(fused):
        shared = row / (1 + matrix.sum(dim=-1))
        row = shared + einsum(shared, matrix, "b q, b q k -> b k")
    return row[:, model.cfg.n_prefix_tokens :]


def _without_lowest(
    matrix: Float[Tensor, "image query key"], share: float, n_prefix: int
) -> Float[Tensor, "image query key"]:
    """The matrix with this share of the entries in the columns of patches, the lowest, set to 0."""
    patches = matrix[..., n_prefix:].flatten(1)
    n_discarded = int(share * patches.shape[1])
    if n_discarded == 0:
        return matrix
    lowest = patches.topk(n_discarded, dim=1, largest=False).indices
    kept = patches.scatter(1, lowest, 0.0).unflatten(1, (matrix.shape[1], -1))
    return torch.cat([matrix[..., :n_prefix], kept], dim=-1)
