"""Rollout of attention weighted by its gradient: the generic relevancy of Chefer, Gur & Wolf (Methods D2)."""

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.heatmaps.shared.reading import read_weights
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.pooling import AttentionPool
from vitlens.model.runs.gradients import gradients_enabled, gradients_of


def gradient_rollout(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
) -> Float[Tensor, "image patch"]:
    """R = I; per block R += mean_heads(relu(∂y_c/∂A ∘ A)) R (equations 5 and 6); the row that is read.

    Only that row is followed, from the last block to the first, so no product of whole matrices is made. It starts at what
    each token counts for the classifier (`read_weights`); with attention pooling, at the pool's own mean_heads(relu(∂y_c/∂A
    ∘ A)), which relates the pool's query to the tokens as equation 5 does within the blocks. Not negative.

    Raises:
        InputError: a model without a classifier.

    Source: Chefer, Gur & Wolf 2021 (Generic Attention-model Explainability), equations 5 and 6; Methods D2.
    """
    model.require_classifier()
    patterns: list[Float[Tensor, "image head query key"]] = []
    last: list[Float[Tensor, "image token d"]] = []

    def watch(pattern: Tensor, hook: HookPoint) -> Tensor:
        kept = pattern if pattern.requires_grad else pattern.detach().requires_grad_()
        patterns.append(kept)
        return kept

    def keep_last(stream: Tensor, hook: HookPoint) -> None:
        last.append(stream.detach())

    n_layers = model.cfg.n_layers
    pools = isinstance(model.pool, AttentionPool)
    names = [hook_name(block, "attn.pattern") for block in range(n_layers)] + ["pool.hook_pattern"] * pools
    end = hook_name(n_layers - 1, "resid_post")
    with gradients_enabled():
        logits = model.run_with_hooks(images, fwd_hooks=[*((name, watch) for name in names), (end, keep_last)])
        gradients = gradients_of(logits.gather(1, classes[:, None]), patterns)
    weighted = [
        (pattern.detach() * gradient).clamp(min=0).mean(dim=1)
        for pattern, gradient in zip(patterns, gradients, strict=True)
    ]
    if pools:
        row = torch.zeros_like(last[0][..., 0])
        row[:, model.pool.tokens] = weighted.pop()[:, 0]
    else:
        row = read_weights(model, last[0])
    for matrix in reversed(weighted):
        row = row + einsum(row, matrix, "b q, b q k -> b k")
    return row[:, model.cfg.n_prefix_tokens :]
