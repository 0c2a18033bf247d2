"""Gradients at the pixels, by captum: integrated gradients and SmoothGrad, summed over the patches."""

from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import require_seed
from vitlens.errors import InputError
from vitlens.heatmaps.shared.explained import explained
from vitlens.heatmaps.shared.pixels import emptied, sum_over_patches
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_enabled


def integrated_gradients(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    n_steps: int = 32,
    replacement: str = "zero",
    metric: str = "logit",
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """Σ over a patch's pixels i of (x_i − x'_i) ∫₀¹ ∂f(x' + α (x − x'))/∂x_i dα: equation 1, along the straight line from
    a picture x' that shows nothing.

    The integral is captum's, by the Gauss-Legendre rule, whose weights captum rounds to single precision. The importances
    sum to f(x) − f(x'), but for the rule's error: `integration_gap`.

    Args:
        n_steps: nodes of the rule.
        replacement: x' is "zero", the grey that is 0 after normalisation; "blur", the picture blurred; or "mean", the
            picture's mean colour.
        metric: f is the class's "logit", "probability" or "log_probability".
        batch_size: rows, pictures × steps, of one forward; by default at most 64, and what is free holds.

    Raises:
        InputError: captum is missing, an unknown replacement or metric, fewer than one step or row, no classifier, a
            probability of outputs that have none.

    Source: Sundararajan, Taly & Yan 2017, equation 1.
    """
    of_class = explained(model, metric)
    if n_steps < 1:
        raise InputError(f"the integral takes at least one step, not {n_steps}")
    rows = rows_at_once(model, images, batch_size, gradients=True)
    integral = _captum().IntegratedGradients(lambda pictures, chosen: of_class(model(pictures), chosen))
    n_pictures = max(1, rows // n_steps)
    found = []
    for pictures, chosen in zip(images.split(n_pictures), classes.split(n_pictures), strict=True):
        with gradients_enabled():
            # captum marks what it is given: a copy leaves the caller's pictures as they are.
            pixels = integral.attribute(
                pictures.detach().clone().requires_grad_(),
                emptied(pictures.detach(), replacement),
                additional_forward_args=(chosen,),
                n_steps=n_steps,
                internal_batch_size=rows,
            )
        found.append(sum_over_patches(model, pixels.detach().to(images.dtype)))
    return torch.cat(found)


def integration_gap(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    importance: Float[Tensor, "image patch"],
    *,
    replacement: str = "zero",
    metric: str = "logit",
) -> Float[Tensor, "image"]:
    """Σ_j importance_j − (f(x) − f(x')): by how much integrated gradients miss the difference that they divide."""
    of_class = explained(model, metric)
    with torch.no_grad():
        whole, empty = (of_class(model(ends), classes) for ends in (images, emptied(images, replacement)))
    return importance.sum(dim=1) - (whole - empty)


def smooth_grad(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    n_draws: int = 32,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """Σ over a patch's pixels i of 1/n Σ_k |∂y_c(x + ε_k)/∂x_i|, ε_k ∼ N(0, σ²), y_c the logit: section 2, on captum.

    Magnitudes are averaged, as captum's Saliency gives them. Not negative. Every picture meets the same noise, whatever
    else is in its batch and however many rows a forward has; PyTorch's own random state stays as it is.

    Args:
        n_draws: noisy copies of each picture.
        noise: σ as a share of the picture's range, max x − min x.
        seed: of the noise.
        batch_size: rows of one forward; by default at most 64, and what is free holds.

    Raises:
        InputError: captum is missing, fewer than one copy or row, negative noise or seed, no classifier.

    Source: Smilkov et al. 2017, section 2.
    """
    require_seed(seed)
    if n_draws < 1:
        raise InputError(f"SmoothGrad takes at least one noisy copy, not {n_draws}")
    if not 0 <= noise < torch.inf:
        raise InputError(f"noise is a share of the picture's range, 0 or more, not {noise:g}")
    rows = rows_at_once(model, images, batch_size, gradients=True)
    logit = explained(model, "logit")
    saliency = _captum().Saliency(lambda pictures, chosen: logit(model(pictures), chosen))
    found = []
    for picture, chosen in zip(images.detach().split(1), classes.split(1), strict=True):
        noisy = picture + _noise_of(picture, n_draws, noise, seed)
        with gradients_enabled():
            parts = [
                saliency.attribute(
                    part.clone().requires_grad_(), additional_forward_args=(chosen.expand(len(part)),)
                ).sum(dim=0)
                for part in noisy.split(rows)
            ]
        found.append(sum_over_patches(model, sum(parts[1:], parts[0])[None].detach() / n_draws))
    return torch.cat(found)


def _noise_of(
    picture: Float[Tensor, "1 channels height width"], n: int, share: float, seed: int
) -> Float[Tensor, "copy channels height width"]:
    """Noise for n copies of a picture, drawn all at once: it depends on nothing but the seed and the picture's range."""
    sigma = torch.tensor(share * (picture.max() - picture.min()).item(), device=picture.device)
    generator = torch.Generator(picture.device).manual_seed(seed)
    return torch.normal(0, sigma.expand(n, *picture.shape[1:]), generator=generator).to(picture.dtype)


def _captum() -> ModuleType:
    """captum's attributions, which are an optional dependency."""
    try:
        from captum import attr
    except ImportError:
        raise InputError(
            "gradients at the pixels are taken by captum, which is not installed: pip install captum"
        ) from None
    return attr
