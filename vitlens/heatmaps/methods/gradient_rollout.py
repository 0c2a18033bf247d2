"""Rollout of attention weighted by its gradient: the generic relevancy of Chefer, Gur & Wolf (D2)."""

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

    Source: Chefer, Gur & Wolf 2021 (Generic Attention-model Explainability), equations 5 and 6; METHODS.md D2.
    """
    model.require_classifier()
    return GradientRollout(model, images).of(classes)


class GradientRollout:
    """A forward whose patterns can be differentiated, for the rows of as many classes as are asked for.

    `logits` [image, class] are the model's.
    """

    def __init__(self, model: HookedViT, images: Float[Tensor, "image channels height width"]) -> None:
        self._model = model
        self._patterns: list[Float[Tensor, "image head query key"]] = []
        self._streams: list[Float[Tensor, "image token d"]] = []

        def watch(pattern: Tensor, hook: HookPoint) -> Tensor:
            kept = pattern if pattern.requires_grad else pattern.detach().requires_grad_()
            self._patterns.append(kept)
            return kept

        def keep_stream(stream: Tensor, hook: HookPoint) -> None:
            self._streams.append(stream.detach())

        n_layers = model.cfg.n_layers
        names = [hook_name(block, "attn.pattern") for block in range(n_layers)]
        self._pools = isinstance(model.pool, AttentionPool)
        if self._pools:
            names.append("pool.hook_pattern")
        end = hook_name(n_layers - 1, "resid_post")
        with gradients_enabled():
            logits = model.run_with_hooks(images, fwd_hooks=[*((name, watch) for name in names), (end, keep_stream)])
        assert isinstance(logits, Tensor)
        self.logits: Float[Tensor, "image class"] = logits

    def of(self, classes: Int[Tensor, "image"], keep_graph: bool = False) -> Float[Tensor, "image patch"]:
        """The row of one class per picture; the last of them frees the graph, unless `keep_graph`."""
        with gradients_enabled():
            chosen = self.logits.gather(1, classes[:, None])
        gradients = gradients_of(chosen, self._patterns, keep_graph=keep_graph)
        weighted = [
            (pattern.detach() * gradient).clamp(min=0).mean(dim=1)
            for pattern, gradient in zip(self._patterns, gradients, strict=True)
        ]
        if self._pools:
            row = torch.zeros_like(self._streams[0][..., 0])
            row[:, self._model.pool.tokens] = weighted.pop()[:, 0]
        else:
            row = read_weights(self._model, self._streams[0])
        for matrix in reversed(weighted):
            row = row + einsum(row, matrix, "b q, b q k -> b k")
        return row[:, self._model.cfg.n_prefix_tokens :]
