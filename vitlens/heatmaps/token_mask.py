"""Token-mask integrated gradients: what the class gains while the patches come into the sequence (D4, ours)."""

from collections.abc import Callable

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

#: What of the class's output is explained, from the logits [row, classes] and the class of each row.
TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": lambda logits, classes: logits.softmax(dim=-1).gather(1, classes[:, None])[:, 0],
    "log_probability": lambda logits, classes: logits.log_softmax(dim=-1).gather(1, classes[:, None])[:, 0],
    "logit": lambda logits, classes: logits.gather(1, classes[:, None])[:, 0],
}

#: The integral runs over t with α = t to this power.
POWER = 4


def token_mask(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    target: str = "probability",
    steps: int = 16,
    batch_size: int = 64,
) -> Float[Tensor, "image patch"]:
    """D4: ∫₀¹ ∂f(α·1)/∂m_j dα, where the mask m multiplies the weight of key j in every head: A[q, j] ∝ m_j exp(s[q, j]).

    m_j = 0 is the removal of patch j from the sequence and m_j = 1 the untouched model, so the path from none to all of the
    patches needs no baseline picture. A softmax turns to the patches long before α is 1: by the midpoint rule over t with
    α = t⁴, which has its points where f changes, all steps of several pictures in one forward. The importances sum to
    f(all patches) − f(no patch), but for the rule's error: `completeness_gap`.

    Where no prefix token is there to be attended to, masking all patches alike changes nothing: f is constant on the way,
    and the importances, which then sum to zero, tell patches from each other but are not complete.

    Args:
        target: f is the class's "probability", "log_probability" or "logit".
        steps: midpoints of the rule.
        batch_size: rows, pictures × steps, of one forward.

    Raises:
        InputError: an unknown target, fewer than one step.

    Source: METHODS.md D4; the path integral is that of Sundararajan, Taly & Yan 2017, equation 1.
    """
    if target not in TARGETS:
        raise InputError(f"the target is one of {', '.join(TARGETS)}, not {target!r}")
    if steps < 1:
        raise InputError(f"the integral takes at least one step, not {steps}")
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        streams = model(images, stop_at_layer=0)
    times = (torch.arange(steps, device=images.device, dtype=streams.dtype) + 0.5) / steps
    levels, widths = times**POWER, POWER * times ** (POWER - 1) / steps
    n_pictures = max(1, batch_size // steps)
    found = []
    for stream, chosen in zip(streams.split(n_pictures), classes.split(n_pictures), strict=True):
        gradients = [
            _gradient(model, stream, chosen, part, TARGETS[target], grid) for part in levels.split(max(1, batch_size))
        ]
        found.append(einsum(torch.cat(gradients), widths, "s b p, s -> b p"))
    return torch.cat(found)


def completeness_gap(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    importance: Float[Tensor, "image patch"],
    target: str = "probability",
) -> Float[Tensor, "image"]:
    """Σ_j importance_j − (f(1) − f(0⁺)): by how much D4 misses the difference that it divides among the patches.

    f(0⁺), the limit of equal masks, is f(no patch) where prefix tokens alone are read. Where patches are pooled, it is what
    they say when each of them attends to the prefix tokens only.
    """
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        stream = model(images, stop_at_layer=0)
        whole = torch.ones_like(importance)
        least = whole * torch.finfo(whole.dtype).tiny ** 0.5
        ends = [TARGETS[target](model.forward_masked(stream, mask, grid), classes) for mask in (whole, least)]
    return importance.sum(dim=1) - (ends[0] - ends[1])


def _gradient(
    model: HookedViT,
    stream: Float[Tensor, "image tokens d"],
    classes: Int[Tensor, "image"],
    levels: Float[Tensor, "step"],
    target: Callable[[Tensor, Tensor], Tensor],
    grid: tuple[int, int],
) -> Float[Tensor, "step image patch"]:
    """∂f/∂m where all patches are present to the extent of each level."""
    n_patches = stream.shape[1] - model.cfg.n_prefix_tokens
    with torch.enable_grad():
        mask = repeat(levels, "s -> (s b) p", b=len(stream), p=n_patches).clone().requires_grad_()
        logits = model.forward_masked(repeat(stream, "b t d -> (s b) t d", s=len(levels)), mask, grid)
        (gradient,) = torch.autograd.grad(target(logits, classes.repeat(len(levels))).sum(), mask)
    return rearrange(gradient, "(s b) p -> s b p", s=len(levels))
