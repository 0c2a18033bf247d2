"""Grad-CAM at the patch tokens of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.runs.gradients import gradients_enabled, gradients_of

#: Where activations may be taken: what the block's attention reads, and the hook points of the block that have tokens.
GRAD_CAM_SITES = ("attn_in", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def grad_cam(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    block: int = -1,
    site: str = "attn_in",
) -> Float[Tensor, "image patch"]:
    """relu(Σ_k w_k a_jk), where w_k = mean_j ∂y_c/∂a_jk over the patches j: equations 2 and 1, on tokens.

    The gradient is that of the logit through all that uses the activation a. Not negative: patches that speak against the
    class are 0, as are patches without influence.

    Args:
        block: whose activations.
        site: "attn_in" is what the block's attention reads: the output of its first norm (`norm1`, usual for vision
            transformers), and where norms follow the branches the stream itself. Or "resid_pre", "attn_out",
            "resid_mid", "mlp_out", "resid_post".

    Raises:
        InputError: a block or site that does not exist, a model without a classifier; a site at whose patch tokens all
            gradients are zero.

    Source: Selvaraju et al. 2017, equations 1 and 2; the site and the dropped prefix tokens follow the package grad-cam.
    """
    if site not in GRAD_CAM_SITES:
        raise InputError(f"Grad-CAM reads one of {', '.join(GRAD_CAM_SITES)}, not {site!r}")
    if site == "resid_mid" and not model.blocks[0].has_middle:
        raise InputError("a parallel block has no stream in the middle: take the site resid_pre or resid_post")
    model.require_classifier()
    index, n_prefix = model.block_index(block), model.cfg.n_prefix_tokens
    with torch.no_grad():
        stream = model(images, stop_at_layer=index)
    with gradients_enabled(), _activation(model, index, site) as seen:
        # A leaf, so that gradients are there whether or not the parameters ask for any.
        logits = model(
            stream.detach().requires_grad_(), start_at_layer=index, grid=model.embed.grid(*images.shape[-2:])
        )
        (gradient,) = gradients_of(logits.gather(1, classes[:, None]), seen)
    gradient, activation = gradient[:, n_prefix:], seen[0].detach()[:, n_prefix:]
    if not gradient.any():
        raise InputError(
            f"after {site} of block {index} nothing reads the patch tokens, so all their gradients are zero and Grad-CAM "
            "is blank: after the last attention only what is pooled reaches the classifier; take an earlier block or site"
        )
    return einsum(gradient.mean(dim=1), activation, "b d, b p d -> b p").clamp(min=0)


@contextmanager
def _activation(model: HookedViT, index: int, site: str) -> Iterator[list[Tensor]]:
    """A list that holds the activation, as it is in the graph, after the model has run."""
    seen: list[Tensor] = []
    block = model.blocks[index]
    norm = block.norm_before("attn")
    if site == "attn_in" and norm is not None:
        # The norm's output has no hook point of its own.
        handle = norm.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            yield seen
        finally:
            handle.remove()
        return

    def keep(activation: Tensor, hook: Any) -> None:
        seen.append(activation)

    name = "resid_pre" if site == "attn_in" else site
    with model.hooks(fwd_hooks=[(hook_name(index, name), keep)]):
        yield seen
