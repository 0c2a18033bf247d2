"""Projection-gradient: how much each patch, through each head's pattern, lowers the loss of the class (Methods D1)."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vjp, vmap
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.class_space.outputs import probabilities
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.parts.block import AnyBlock

LOSSES = ("cross_entropy", "logit", "double_softmax")


def projection_gradient(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    blocks: int | Sequence[int] | None = None,
    loss: str = "cross_entropy",
    paper_compat: bool = False,
) -> Float[Tensor, "image patch"]:
    """−Σ_blocks Σ_heads ∂ℓ/∂A[h, read row, j], ℓ the loss of the class in each attention's projection (Methods D1).

    For each block the attention output at the class token is projected onto the classes; the importance of patch j in head
    h is −∂ℓ/∂A[h, class token, j], which is −⟨∂ℓ/∂z[h], v[h, j]⟩: one einsum for all heads and pictures. Models that pool
    patches have the mean over the rows that they read. Blocks and heads can be kept apart.

    Args:
        blocks: those that are summed; all by default.
        loss: "cross_entropy" of the projection, of sigmoid outputs −log σ(logit); "logit" (−1 times it); "double_softmax",
            as in the released code, whose gradients vanish where the class is improbable.
        paper_compat: "double_softmax".

    Raises:
        InputError: an unknown loss or block; a model without a classifier; a loss that its outputs do not have.

    Source: Vilas, Schaumlöffel & Roig 2023, section 6; Methods D1.
    """
    maps = projection_gradient_by_head(model, images, classes, blocks=blocks, loss=loss, paper_compat=paper_compat)
    return maps.sum(dim=(1, 2))


def projection_gradient_by_head(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    blocks: int | Sequence[int] | None = None,
    loss: str = "cross_entropy",
    paper_compat: bool = False,
) -> Float[Tensor, "image block head patch"]:
    """The terms of `projection_gradient`, the blocks in their order in the model."""
    loss = "double_softmax" if paper_compat else loss
    if loss not in LOSSES:
        raise InputError(f"the loss is one of {', '.join(LOSSES)}, not {loss!r}")
    model.require_classifier()
    if loss != "logit":
        model.require_probability('the cross-entropy (any loss but loss="logit")', 'pass loss="logit"')
    if loss == "double_softmax" and model.cfg.output != "softmax":
        raise InputError(
            f'the outputs of {model.cfg.model_name} are sigmoids, which have no softmax: pass loss="cross_entropy"'
        )
    observer = ProjectionGradientObserver(model)
    with torch.no_grad():
        model.run_with_hooks(images, return_type="features", fwd_hooks=observer.hooks(model.block_indices(blocks)))
        return observer.importance(classes[:, None], loss)[:, 0]


class ProjectionGradientObserver:
    """Hooks that keep what the closed form of Methods D1 needs: the values, and z of the tokens that are read."""

    def __init__(self, model: HookedViT) -> None:
        self.model = model
        # The class token's row; where patches are pooled, the mean over the rows that are read.
        self.queries = model.read_tokens
        self.values: dict[int, Float[Tensor, "image token head d_head"]] = {}
        self.mixed: dict[int, Float[Tensor, "image query head d_head"]] = {}
        self.gates: dict[int, Float[Tensor, "image query head d_head"]] = {}

    def hooks(self, blocks: Sequence[int] | None = None) -> Hooks:
        found: Hooks = []
        for index in range(self.model.cfg.n_layers) if blocks is None else blocks:
            attn = self.model.blocks[index].attn
            found.append((hook_name(index, "attn.v"), self._keep(self.values, index)))
            found.append((hook_name(index, f"attn.{attn.mixed_site}"), self._keep(self.mixed, index, self.queries)))
            if attn.gate is not None:
                found.append((hook_name(index, "attn.gate"), self._keep(self.gates, index, self.queries)))
        return found

    @staticmethod
    def _keep(table: dict[int, Tensor], index: int, tokens: slice | None = None) -> Any:
        def keep(value: Tensor, hook: HookPoint) -> None:
            table[index] = value if tokens is None else value[:, tokens]

        return keep

    def importance(
        self, classes: Int[Tensor, "image class"], loss: str = "cross_entropy"
    ) -> Float[Tensor, "image class block head patch"]:
        """The importances (Methods D1) of the run that was watched."""
        n_prefix = self.model.cfg.n_prefix_tokens
        maps = []
        for index in sorted(self.values):
            pulled = self._pull_back(index, classes, loss)
            mean = pulled.mean(dim=2)
            patches = self.values[index][:, n_prefix:]
            maps.append(-einsum(mean, patches, "c b h e, b p h e -> b c h p"))
        return torch.stack(maps, dim=2)

    def _pull_back(
        self, index: int, classes: Int[Tensor, "image class"], loss: str
    ) -> Float[Tensor, "class image query head d_head"]:
        """∂ℓ/∂z of every query: the loss through softmax, E and ν to attention's output, and through W_O to the heads."""
        block = self.model.blocks[index]

        first = self.queries.start or 0
        queries = range(first, first + self.mixed[index].shape[1])

        def project(mixed: Tensor) -> Tensor:
            return self.model.project(_attention_output(block, mixed, self.gates.get(index)), queries)

        logits, pull = vjp(  # type: ignore[misc]
            project, self.mixed[index]
        )
        return vmap(lambda upstream: pull(upstream)[0])(_loss_gradients(logits, classes, loss, self.model.cfg.output))


def _attention_output(block: AnyBlock, mixed: Tensor, gate: Tensor | None) -> Float[Tensor, "image query d"]:
    """What attention adds to the stream, computed from the mixed values of its heads without passing any hook point."""
    attn = block.attn
    if attn.head_norm is not None:
        mixed = attn.head_norm.normalise(mixed) * attn.head_factor
    flat = rearrange(mixed, "b q h e -> b q (h e)")
    if attn.ln_z is not None:
        flat = attn.ln_z.normalise(flat)
    if gate is not None:
        flat = flat * rearrange(gate, "b q h e -> b q (h e)")
    out = attn.proj(flat)
    out = out if attn.gamma is None else out * attn.gamma
    norm = block.norm_behind("attn")
    return out if norm is None else norm.normalise(out)


def _loss_gradients(
    logits: Float[Tensor, "image query classes"], classes: Int[Tensor, "image class"], loss: str, output: str
) -> Float[Tensor, "class image query classes"]:
    """∂ℓ/∂logits for every chosen class: p − e_c, of a sigmoid (p − 1) ∘ e_c; for the logit −e_c; for the softmax of a
    softmax p ∘ (s − ⟨p, s⟩)."""
    wanted = torch.nn.functional.one_hot(classes.T, logits.shape[-1]).to(logits)[:, :, None]
    if loss == "logit":
        return -wanted.expand(-1, -1, logits.shape[1], -1)
    p = probabilities(logits, output)
    if output == "sigmoid":
        return (p - 1) * wanted
    if loss == "cross_entropy":
        return p - wanted
    second = p.softmax(dim=-1) - wanted
    return p * (second - (p * second).sum(dim=-1, keepdim=True))
