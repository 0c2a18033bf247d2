"""Projection-gradient as a heatmap: D1 summed over blocks and heads."""

from jaxtyping import Float, Int
from torch import Tensor

from vitlens.heatmaps.methods import saliency
from vitlens.model.hooked_vit import HookedViT


def projection_gradient(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    blocks: list[int] | None = None,
    loss: str = "cross_entropy",
    paper_compat: bool = False,
) -> Float[Tensor, "image patch"]:
    """−Σ_blocks Σ_heads ∂ℓ/∂A[h, read row, j], ℓ the loss of the class in each attention's own projection (D1).

    `vitlens.heatmaps.projection_gradient` has it by block and head.

    Args:
        blocks: those that are summed; all by default.
        loss: "cross_entropy", "logit", or "double_softmax" as published (`paper_compat`).

    Raises:
        InputError: an unknown loss or block.

    Source: Vilas, Schaumlöffel & Roig 2023, section 6; METHODS.md D1.
    """
    found = saliency.projection_gradient(
        model, images, classes, blocks=blocks, loss=loss, paper_compat=paper_compat
    )  # fmt: skip
    return found.values[:, 0].sum(dim=(1, 2))
