"""Which patches the class came from, by gradients of attention: projection-gradient and gradient rollout (D1, D2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vjp, vmap
from tqdm import tqdm
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, ClassSelection, classes_by_batch, select_classes
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.heatmaps.methods.gradient_rollout import GradientRollout
from vitlens.heatmaps.shared.precision import careful, require_finite, require_finite_logits
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.parts.block import AnyBlock
from vitlens.model.runs.gradients import outside_inference
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.results.result import Result

LOSSES = ("cross_entropy", "logit", "double_softmax")


@dataclass(frozen=True, repr=False)
class Importance(Result):
    """How important each patch was: [image, class, patch], or by block and head before the patch.

    `grid` says where the patches lie.
    """

    grid: tuple[int, int] | list[int]

    def heatmap(self) -> Float[Tensor, "image class rows columns"]:
        """Summed over blocks and heads, on the picture's grid."""
        summed = self.values if self.values.ndim == 3 else self.values.sum(dim=(2, 3))
        return summed.unflatten(-1, tuple(self.grid))


class ProjectionGradientObserver:
    """Hooks that keep, of a forward, what the closed form of D1 needs: the values, and z of the tokens that are read."""

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
        """D1 of what was seen."""
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
        return vmap(lambda upstream: pull(upstream)[0])(_loss_gradients(logits, classes, loss))


@leaves_state
@checked
def projection_gradient(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    blocks: Sequence[int] | None = None,
    loss: str = "cross_entropy",
    paper_compat: bool = False,
    batch_size: int | None = None,
    progress: bool = False,
) -> Importance:
    """D1: how much every patch, through each head's pattern, lowers the loss of the class in attention's own output.

    For each block the attention output at the class token is projected onto the classes; the importance of patch j in head
    h is −∂ℓ/∂A[h, class token, j], which is −⟨∂ℓ/∂z[h], v[h, j]⟩: one einsum for all heads, pictures and classes. Sum over
    blocks and heads for the heatmap. Models that pool patches have the mean over the rows that they read.

    Args:
        classes: indices, names, or a tensor [image] of each picture's own; by default the predicted class.
        loss: "cross_entropy" of the projection; "logit" (−1 times it); "double_softmax", as in the released code, whose
            gradients vanish where the class is improbable.
        paper_compat: "double_softmax".
        batch_size: pictures of one forward; by default at most 64, and what is free holds.
        progress: show a bar.

    Returns:
        Importance with axes image, class, block, head, patch.

    Raises:
        InputError: an unknown loss, block or class; a model without a classifier, or a softmax of its single output; no
            pictures; importances or logits that are not finite.

    Source: Vilas, Schaumlöffel & Roig 2023, section 6; METHODS.md D1.
    """
    loss = "double_softmax" if paper_compat else loss
    if loss not in LOSSES:
        raise InputError(f"the loss is one of {', '.join(LOSSES)}, not {loss!r}")
    model.require_classifier()
    if loss != "logit":
        model.require_choice('the cross-entropy (any loss but loss="logit")')
    pictures = model.as_images(images)
    chosen = model.block_indices(blocks)

    def of_part(able: HookedViT, part: Tensor, wanted: Classes) -> tuple[Tensor, ClassSelection]:
        observer = ProjectionGradientObserver(able)
        logits = able.run_with_hooks(part, fwd_hooks=observer.hooks(chosen))
        selection = _selected(able, wanted, logits)
        return observer.importance(selection.indices, loss).detach(), selection

    values, selection = _in_parts(model, pictures, classes, of_part, "projection-gradient", batch_size, progress)
    return Importance(
        values,
        {
            "image": list(range(len(pictures))),
            "class": selection.labels,
            "block": sorted(chosen),
            "head": list(range(values.shape[3])),
            "patch": list(range(values.shape[4])),
        },
        "importance",
        classes=selection.indices,
        class_names=model.class_names,
        settings={"model": model.cfg.model_name, "method": "projection_gradient", "loss": loss},
        grid=model.embed.grid(*pictures.shape[-2:]),
    )


@leaves_state
@checked
def gradient_rollout(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> Importance:
    """D2: rollout of attention weighted by its gradient: R = I; R += mean_heads(relu(∂y/∂A ∘ A)) R; the row that is read.

    Only that row is followed, from the last block to the first, so no product of whole matrices is made. Where it starts,
    in a model that reads more than its class token, is told at `vitlens.heatmaps.methods.gradient_rollout`.

    Args:
        batch_size: pictures of one forward and backward; by default at most 64, and what is free holds.
        progress: show a bar.

    Returns:
        Importance with axes image, class, patch.

    Raises:
        InputError: a class that does not exist; a model without a classifier; no pictures; importances or logits that are
            not finite.

    Source: Chefer, Gur & Wolf 2021 (Generic Attention-model Explainability), equations 5 and 6; METHODS.md D2.
    """
    model.require_classifier()
    pictures = model.as_images(images)
    values, selection = _in_parts(
        model, pictures, classes, _gradient_rollout, "gradient rollout", batch_size, progress
    )  # fmt: skip
    return Importance(
        values,
        {"image": list(range(len(pictures))), "class": selection.labels, "patch": list(range(values.shape[-1]))},
        "importance",
        classes=selection.indices,
        class_names=model.class_names,
        settings={"model": model.cfg.model_name, "method": "gradient_rollout"},
        grid=model.embed.grid(*pictures.shape[-2:]),
    )


def _gradient_rollout(model: HookedViT, part: Tensor, wanted: Classes) -> tuple[Tensor, ClassSelection]:
    rollout = GradientRollout(model, part)
    selection = _selected(model, wanted, rollout.logits.detach())
    last = selection.indices.shape[1] - 1
    rows = [rollout.of(chosen, keep_graph=position < last) for position, chosen in enumerate(selection.indices.T)]
    return torch.stack(rows, dim=1), selection


def _in_parts(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    classes: Classes,
    of_part: Callable[[HookedViT, Tensor, Classes], tuple[Tensor, ClassSelection]],
    title: str,
    batch_size: int | None,
    progress: bool,
) -> tuple[Float[Tensor, "image class *rest"], ClassSelection]:
    """The importances of all pictures, so many at a time, and the classes that they are of."""
    found: list[tuple[Tensor, ClassSelection]] = []
    per_picture = isinstance(classes, (Tensor, np.ndarray)) and classes.ndim > 0 and len(classes) == len(pictures)
    with careful(model, pictures) as (able, copies):
        size = rows_at_once(able, copies, batch_size, gradients=True)
        if not per_picture and classes is not None:
            # What does not fit the pictures is refused before any work, and for all of them.
            classes_by_batch(able, classes, len(copies))
        for start in tqdm(range(0, len(copies), size), title, disable=not progress, unit_scale=size, unit=" pictures"):
            some = slice(start, start + size)
            found.append(of_part(able, copies[some], classes[some] if per_picture else classes))  # type: ignore[index]
        values = torch.cat([values for values, _ in found])
        indices = torch.cat([selection.indices for _, selection in found])
    require_finite(values, f"the {title}", "numbers overflowed on the way, as very large weights or pixels make them")
    return values, ClassSelection(indices, found[0][1].labels)


def _selected(model: HookedViT, classes: Classes, logits: Float[Tensor, "image classes"]) -> ClassSelection:
    require_finite_logits(model, logits)
    selection = select_classes(model, classes, len(logits), lambda: logits)
    # Classes given may have been made under inference_mode.
    return ClassSelection(outside_inference(selection.indices), selection.labels)


def _attention_output(block: AnyBlock, mixed: Tensor, gate: Tensor | None) -> Float[Tensor, "image query d"]:
    """What attention adds to the stream, from what its heads mixed, past all hook points."""
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
    logits: Float[Tensor, "image query classes"], classes: Int[Tensor, "image class"], loss: str
) -> Float[Tensor, "class image query classes"]:
    """∂ℓ/∂logits for every chosen class: p − e_c; for the logit −e_c; for the softmax of a softmax p ∘ (s − ⟨p, s⟩)."""
    wanted = torch.nn.functional.one_hot(classes.T, logits.shape[-1]).to(logits)[:, :, None]
    if loss == "logit":
        return -wanted.expand(-1, -1, logits.shape[1], -1)
    probabilities = logits.softmax(dim=-1)
    if loss == "cross_entropy":
        return probabilities - wanted
    second = probabilities.softmax(dim=-1) - wanted
    return probabilities * (second - (probabilities * second).sum(dim=-1, keepdim=True))
