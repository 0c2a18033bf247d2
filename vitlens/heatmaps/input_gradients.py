"""Gradients at the pixels, by captum: integrated gradients and SmoothGrad, summed over the patches."""

from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.pixels import emptied, sum_over_patches
from vitlens.heatmaps.token_mask import TARGETS
from vitlens.model.hooked_vit import HookedViT


def integrated_gradients(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    steps: int = 32,
    baseline: str = "zero",
    target: str = "logit",
    batch_size: int = 64,
) -> Float[Tensor, "image patch"]:
    """Σ over a patch's pixels i of (x_i − x'_i) ∫₀¹ ∂f(x' + α (x − x'))/∂x_i dα: equation 1, along the straight line from
    a picture x' that shows nothing.

    The integral is captum's, by the Gauss-Legendre rule, whose weights captum rounds to single precision. The importances
    sum to f(x) − f(x'), but for the rule's error: `integration_gap`.

    Args:
        steps: nodes of the rule.
        baseline: x' is "zero", the grey that is 0 after normalisation; "blur", the picture blurred; or "mean", the
            picture's mean colour.
        target: f is the class's "logit", "probability" or "log_probability".
        batch_size: rows, pictures × steps, of one forward.

    Raises:
        InputError: captum is missing, an unknown baseline or target, fewer than one step or row, no classifier.

    Source: Sundararajan, Taly & Yan 2017, equation 1.
    """
    if target not in TARGETS:
        raise InputError(f"the target is one of {', '.join(TARGETS)}, not {target!r}")
    if steps < 1 or batch_size < 1:
        raise InputError(f"the integral takes at least one step and one row, not {steps} and {batch_size}")
    model.require_classifier()
    integral = _captum().IntegratedGradients(lambda rows, chosen: TARGETS[target](model(rows), chosen))
    n_pictures = max(1, batch_size // steps)
    found = []
    for pictures, chosen in zip(images.split(n_pictures), classes.split(n_pictures), strict=True):
        pixels = integral.attribute(
            pictures,
            emptied(pictures, baseline),
            additional_forward_args=(chosen,),
            n_steps=steps,
            internal_batch_size=batch_size,
        )
        found.append(sum_over_patches(model, pixels.detach().to(images.dtype)))
    return torch.cat(found)


def integration_gap(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    importance: Float[Tensor, "image patch"],
    baseline: str = "zero",
    target: str = "logit",
) -> Float[Tensor, "image"]:
    """Σ_j importance_j − (f(x) − f(x')): by how much integrated gradients miss the difference that they divide."""
    with torch.no_grad():
        whole, empty = (TARGETS[target](model(ends), classes) for ends in (images, emptied(images, baseline)))
    return importance.sum(dim=1) - (whole - empty)


def smooth_grad(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    n: int = 32,
    noise: float = 0.15,
    seed: int = 0,
    batch_size: int = 64,
) -> Float[Tensor, "image patch"]:
    """Σ over a patch's pixels i of 1/n Σ_k |∂y_c(x + ε_k)/∂x_i|, ε_k ∼ N(0, σ²), y_c the logit: section 2, on captum.

    Magnitudes are averaged, as captum's Saliency gives them. Not negative. Every picture meets the same noise, whatever
    else is in its batch; PyTorch's own random state stays as it is.

    Args:
        n: noisy copies of each picture.
        noise: σ as a share of the picture's range, max x − min x.
        seed: of the noise.
        batch_size: rows of one forward. Where it is less than n, the noise is drawn in so many parts and depends on it.

    Raises:
        InputError: captum is missing, fewer than one copy or row, negative noise, no classifier.

    Source: Smilkov et al. 2017, section 2.
    """
    if n < 1 or batch_size < 1:
        raise InputError(f"SmoothGrad takes at least one noisy copy and one row, not {n} and {batch_size}")
    if noise < 0:
        raise InputError(f"noise is a share of the picture's range, 0 or more, not {noise:g}")
    model.require_classifier()
    captum = _captum()

    def logit(rows: Tensor, chosen: Tensor) -> Tensor:
        # captum's noise is in single precision, and so is what it is added to in half precision.
        return TARGETS["logit"](model(rows.to(images.dtype)), chosen)

    tunnel = captum.NoiseTunnel(captum.Saliency(logit))
    found = []
    # torch.manual_seed would also seed devices that are not saved here.
    generator = torch.cuda.default_generators[images.device.index] if images.is_cuda else torch.default_generator
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        for picture, chosen in zip(images.split(1), classes.split(1), strict=True):
            generator.manual_seed(seed)
            pixels = tunnel.attribute(
                picture,
                nt_samples=n,
                nt_samples_batch_size=batch_size,
                stdevs=noise * (picture.max() - picture.min()).item(),
                additional_forward_args=(chosen,),
            )
            found.append(sum_over_patches(model, pixels.detach().to(images.dtype)))
    return torch.cat(found)


def _captum() -> ModuleType:
    """captum's attributions, which are an optional dependency."""
    try:
        from captum import attr
    except ImportError:
        raise InputError(
            "gradients at the pixels are taken by captum, which is not installed: pip install 'vitlens[captum]'"
        ) from None
    return attr
