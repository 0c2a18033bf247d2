"""Head × patch attribution: what each patch wrote directly into the class logit through the heads (ours)."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from vitlens.attribution.direct import direct_logit_attribution
from vitlens.choose.classes import select_classes
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT


def head_patch(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    blocks: int | Sequence[int] | None = None,
    baseline_classes: Int[Tensor, "image"] | None = None,
) -> Float[Tensor, "image patch"]:
    """Σ_l Σ_h Σ_q w_q A[l, h, q, j] ⟨v[l, h, j], W_O[l, h] u_c⟩: what patches wrote through heads, directly.

    The unit "head_patch" of `direct_logit_attribution`, over heads: patterns and norms are frozen and only the direct way
    of each head to the logit counts, so the map and what prefix tokens, MLPs, the embedding and biases wrote sum to the
    logit, exactly. What a patch gives to other tokens, which later heads read, is counted where those heads read it. Blocks
    and heads can be kept apart.

    Args:
        blocks: whose heads; by default all.
        baseline_classes: of the difference of two classes' logits.

    Raises:
        InputError: there is no such block; a class is its own baseline, so that there is no difference to explain.

    Source: Methods, notation; Elhage et al. 2021 for the OV circuit.
    """
    maps = head_patch_by_head(model, images, classes, blocks=blocks, baseline_classes=baseline_classes)
    return maps.sum(dim=(1, 2))


def head_patch_by_head(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    blocks: int | Sequence[int] | None = None,
    baseline_classes: Int[Tensor, "image"] | None = None,
) -> Float[Tensor, "image block head patch"]:
    """The terms of `head_patch`, the blocks in their order in the model."""
    chosen = sorted(set(model.block_indices(blocks)))
    if baseline_classes is not None:
        against = select_classes(model, baseline_classes, len(images), lambda: model(images)).indices
        if (against == classes[:, None]).any():
            raise InputError("a class and its baseline class are the same, so their difference is 0 whatever is shown")
    result = direct_logit_attribution(model, images, classes, baseline_classes=baseline_classes, unit="head_patch")
    return result.values[:, 0, chosen][..., model.cfg.n_prefix_tokens :]
