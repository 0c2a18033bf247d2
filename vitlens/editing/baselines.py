"""What an edit is compared with: random edits of the same kind and norm, and a classifier trained again."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.editing.changes import Change, Directions
from vitlens.editing.edits import Edit, edit
from vitlens.editing.groups import Groups
from vitlens.editing.parts import classifier_hook
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, Reader, block_and_site
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource

#: Strengths of the penalty that are tried, from strong to weak.
PENALTIES = (0.001, 0.01, 0.1, 1.0)


def edit_norms(edits: Sequence[Edit], images: PictureSource, batch_size: int | None = None) -> list[float]:
    """How much each edit changes: the root mean square, over pictures and tokens, of what it adds at its places.

    What is added to z is counted as W_O writes it, what is added to neurons as W_out does. It is proportional to the dose.
    """
    model = edits[0].model
    totals, n_seen = [0.0] * len(edits), 0
    hooks = sorted({change.hook for made in edits for change in made.changes})
    with torch.no_grad():
        for batch in PictureBatches(model, images, batch_size):
            n_seen += len(batch.images)
            cache = model.run_with_cache(batch.images, names_filter=hooks)[1]
            for i, made in enumerate(edits):
                for change in made.changes:
                    moved = _in_stream(model, change, change(cache[change.hook]) - cache[change.hook])
                    squares = moved.double().square().sum(dim=-1)
                    totals[i] += float((squares if squares.ndim == 1 else squares.flatten(1).mean(dim=1)).sum())
    if not n_seen:
        raise InputError("there are no pictures to measure an edit on")
    return [(total / n_seen) ** 0.5 for total in totals]


def _in_stream(model: HookedViT, change: Change, moved: Tensor) -> Tensor:
    place = block_and_site(change.hook)
    if place is None or change.unit_axis is None:
        return moved
    block = model.blocks[place[0]]
    if change.hook.endswith("hook_z"):
        return einsum(moved, block.attn.W_O, "b t h e, h e d -> b t d")
    if change.hook.endswith("hook_post"):
        return moved @ block.mlp.W_out
    return moved.sum(dim=-2)


def random_edits(
    made: Edit, images: PictureSource, n_draws: int, seed: int = 0, batch_size: int | None = None
) -> dict[str, Edit]:
    """Random edits of the same kind, at doses at which they change as much as this one (`edit_norms`).

    In place of directions: as many random mixtures of the activations at the same place. In place of heads, MLPs or neurons:
    as many others of the same kind.

    Raises:
        InputError: there are no other parts of this kind, or they write nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    if made.how == "direction":
        drawn = _random_directions(made, images, n_draws, generator, batch_size)
    else:
        drawn = [_other_parts(made, images, generator, batch_size) for _ in range(n_draws)]
    norm, *own = edit_norms([made.at(1.0), *drawn], images, batch_size)
    if not all(own):
        raise InputError("a random edit of this kind changes nothing, so it cannot have the same norm")
    dose = made.changes[0].dose
    return {f"random {i + 1}": one.at(dose * norm / size) for i, (one, size) in enumerate(zip(drawn, own, strict=True))}


def _random_directions(
    made: Edit, images: PictureSource, n_draws: int, generator: torch.Generator, batch_size: int | None
) -> list[Edit]:
    model = made.model
    hooks = sorted({change.hook for change in made.changes})
    sums: dict[str, Any] = dict.fromkeys(hooks, 0.0)
    widths = {change.hook: len(change.removed) for change in made.changes if change.removed is not None}
    n_seen = 0
    with torch.no_grad():
        for batch in PictureBatches(model, images, batch_size):
            cache = model.run_with_cache(batch.images, names_filter=hooks)[1]
            n_seen += len(batch.images)
            for hook in hooks:
                # Heads and tokens are averaged: any mixture of what is there will do.
                value = cache[hook].flatten(1, -2).mean(dim=1) if cache[hook].ndim > 2 else cache[hook]
                weights = torch.randn(n_draws, widths[hook] + 1, len(value), generator=generator).to(value)
                weights[:, -1] = 1
                sums[hook] = sums[hook] + weights @ value

    def removed(hook: str, draw: int) -> Directions:
        *rows, total = sums[hook][draw]
        mean = total / n_seen
        # Each mixture would have some of the mean in it.
        along = torch.stack(rows) @ mean / mean.square().sum().clamp(min=1e-30)
        return replace(Directions.orthogonal(torch.stack(rows) - along[:, None] * mean), mean=mean)

    return [
        replace(
            made,
            changes=tuple(replace(change, removed=removed(change.hook, draw), dose=1.0) for change in made.changes),
        )
        for draw in range(n_draws)
    ]


def _other_parts(made: Edit, images: PictureSource, generator: torch.Generator, batch_size: int | None) -> Edit:
    model, parts = made.model, list(made.parts)
    drawn: list[str] = []
    for part in parts:
        others = [other for other in _like(model, part) if other not in parts and other not in drawn]
        if not others:
            raise InputError(f"there is no other part like {part} to draw at random")
        drawn.append(others[int(torch.randint(len(others), (), generator=generator))])
    about: dict[str, Any] = {} if made.how == "zero" else {"images": images, "batch_size": batch_size}
    again = edit(model, drawn, made.how, **about)
    where = made.changes[0].tokens
    return replace(again, changes=tuple(replace(change, tokens=where) for change in again.changes))


def _like(model: HookedViT, part: str) -> list[str]:
    blocks = range(model.cfg.n_layers)
    if " neuron " in part:
        block = part.split()[0]
        return [f"{block} neuron {i}" for i in range(model.blocks[int(block[1:])].mlp.W_out.shape[0])]
    if part.endswith((" mlp", " attn")):
        return [f"L{block} {part.split()[1]}" for block in blocks]
    if part.startswith("L"):
        return [f"L{block}H{head}" for block in blocks for head in range(model.cfg.n_heads)]
    return []


@dataclass
class RetrainedClassifier:
    """The same model with a classifier that was trained again: logits = W' x + b', x what the classifier reads."""

    hook: str
    weight: Float[Tensor, "class d"]
    bias: Float[Tensor, "class"]
    knows_all_classes: bool
    _read: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def hooks(self) -> Hooks:
        def keep(activation: Tensor, hook: HookPoint) -> None:
            self._read["x"] = activation

        def replaced(logits: Tensor, hook: HookPoint) -> Tensor:
            return self._read.pop("x") @ self.weight.to(logits).T + self.bias.to(logits)

        return [(self.hook, Reader(keep)), ("hook_logits", replaced)]


def retrain_classifier(
    model: HookedViT, x: Float[Tensor, "image d"], labels: Int[Tensor, "image"], groups: Groups, seed: int = 0
) -> RetrainedClassifier:
    """Trains only the classifier again, so that every group counts alike: the usual cheap remedy for a shortcut.

    A logistic regression on what the classifier reads, each picture weighted by one over the number in its group. Of four
    strengths of the penalty the one with the best worst group on a fifth of the pictures is taken.

    Raises:
        InputError: pictures of a single class.

    Source: Kirichenko et al. 2023 (Last layer re-training is sufficient for robustness to spurious correlations).
    """
    hook = classifier_hook(model)
    values, truth, of_image = x.double().numpy(), labels.numpy(), groups.of_image.numpy()
    if len(np.unique(truth)) < 2:
        raise InputError("a classifier is trained on pictures of at least two classes")
    middle, spread = values.mean(axis=0), values.std(axis=0) + 1e-12
    standard = (values - middle) / spread
    weights = 1.0 / np.bincount(of_image)[of_image]
    weights *= len(weights) / weights.sum()
    judged = np.random.default_rng(seed).random(len(truth)) < 0.2

    def fitted(penalty: float, some: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=penalty, max_iter=2000).fit(standard[some], truth[some], weights[some])

    def worst(penalty: float) -> float:
        right = fitted(penalty, ~judged).predict(standard[judged]) == truth[judged]
        return min(right[of_image[judged] == i].mean() for i in np.unique(of_image[judged]))

    enough = judged.any() and len(np.unique(truth[~judged])) == len(np.unique(truth))
    best = max(PENALTIES, key=worst) if enough else PENALTIES[1]
    found = fitted(best, np.ones(len(truth), dtype=bool))
    weight = np.zeros((model.cfg.n_classes, values.shape[1]))
    # A class without pictures is never predicted, as in the regression.
    bias = np.full(model.cfg.n_classes, -1e4)
    rows, offsets = found.coef_, found.intercept_
    if len(rows) == 1:
        # Of two classes scikit-learn keeps one row: the logit of the second against the first.
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight[found.classes_] = rows / spread
    bias[found.classes_] = offsets - (rows / spread) @ middle
    return RetrainedClassifier(
        hook, torch.tensor(weight), torch.tensor(bias), len(found.classes_) == model.cfg.n_classes
    )


def classifier_inputs(
    model: HookedViT, images: PictureSource, batch_size: int | None = None, progress: bool | None = None
) -> Float[Tensor, "image d"]:
    """What the classifier reads of each picture."""
    hook = classifier_hook(model)
    found = []
    with torch.no_grad():
        for batch in PictureBatches(model, images, batch_size).with_bar("classifier inputs", progress):
            found.append(model.run_with_cache(batch.images, names_filter=hook)[1][hook].cpu())
    return torch.cat(found)
