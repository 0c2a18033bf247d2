"""Activation patching as a heatmap: what the class loses while one patch token is that of a corrupted picture."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.explained import explained
from vitlens.heatmaps.shared.pixels import emptied
from vitlens.model.hooked_vit import HookedViT
from vitlens.patching.sources import OtherRun
from vitlens.patching.sweep import Plan, sweep


def patching_effect(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    block: int = 0,
    replacement: str | Tensor = "blur",
    metric: str = "logit",
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """f(clean) − f(clean, but `resid_pre` of patch j as in the corrupted picture): noising (Methods B3), patch by patch.

    The sweep is that of `vitlens.activation_patching` with direction="noise": equal to one whole run for each patch.

    Args:
        block: which block reads the patched stream.
        replacement: the corrupted picture: "blur", the picture blurred; "mean", its mean colour; "zero", the grey that is
            0 after normalisation; or prepared pictures, one [channels, height, width] for all or one for each of `images`.
        metric: f is the class's "logit", "probability" or "log_probability".
        batch_size: rows of one forward; by default as many as are fast and fit.

    Raises:
        InputError: a block or metric that does not exist, corrupted pictures of another shape, no classifier, a
            probability of outputs that have none.

    Source: Methods B3; Vig et al. 2020; Meng et al. 2022.
    """
    of_class = explained(model, metric)
    others = _corrupted(model, images, replacement)
    n_prefix, (rows, columns) = model.cfg.n_prefix_tokens, model.embed.grid(*images.shape[-2:])
    patches = range(n_prefix, n_prefix + rows * columns)
    plan = Plan.make(model, images, "resid_pre", block, tokens=patches)
    todo = torch.ones(1, 1, len(patches), len(images), dtype=torch.bool)
    effect = images.new_empty(len(images), len(patches))
    with torch.no_grad():
        whole = of_class(model(images), classes)
        for step in sweep(model, plan, images, OtherRun(others), todo, batch_size=batch_size, progress=False):
            for patch, logits in zip(step.cells, step.logits, strict=True):
                here = step.images
                effect[here, patch] = whole[here] - of_class(logits, classes[here])
    return effect


def _corrupted(
    model: HookedViT, images: Float[Tensor, "image channels height width"], replacement: str | Tensor
) -> Float[Tensor, "image channels height width"]:
    if isinstance(replacement, str):
        return emptied(images, replacement)
    if isinstance(replacement, Tensor) and replacement.is_floating_point():
        replacement = replacement.to(images.dtype)
    others = model.as_images(replacement)
    if others.shape[1:] != images.shape[1:] or len(others) not in (1, len(images)):
        raise InputError(
            f"the corrupted pictures are {list(others.shape)}, which do not pair up with pictures of {list(images.shape)}: "
            "pass one for each of them, or one for all"
        )
    return others.expand_as(images)
