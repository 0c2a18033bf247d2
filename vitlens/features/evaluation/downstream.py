"""How the model's answers change with a dictionary in place of an activation, or with zeros or the mean activation."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.features.evaluation.entrants import Entrant
from vitlens.features.evaluation.estimates import Estimate, PictureSums, ratios
from vitlens.features.placed import PlacedDictionary
from vitlens.features.places import chosen_rows, split_rows, suffix_of
from vitlens.features.splice import SplicedDictionary
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, kl_divergence
from vitlens.model.hooks.hook_points import Hooks
from vitlens.statistics import bootstrap

#: What replaces the activation, beside the reconstruction of a dictionary.
ABLATIONS = ("zero", "mean")


class Answers:
    """Sums over pictures of how the answers of some dictionaries' common model differ from its unchanged answers."""

    def __init__(self, entrants: Sequence[Entrant], mean: Float[Tensor, "d"], widths: Sequence[int]) -> None:
        first = entrants[0].placed
        self.model, self.names = first.model, [entrant.name for entrant in entrants]
        self.places = list(dict.fromkeys(place for one in entrants for place in one.placed.places))
        self.sums = PictureSums()
        means = mean.split(list(widths))
        self.hooks: dict[str, Hooks] = {
            "clean": [],
            "zero": [_constant(first, part, torch.zeros_like(row)) for part, row in enumerate(means)],
            "mean": [_constant(first, part, row) for part, row in enumerate(means)],
        }
        for one in entrants:
            self.hooks[one.name] = SplicedDictionary(one.placed).hooks()

    def add(self, images: Float[Tensor, "image channels height width"], labels: Int[Tensor, "image"] | None) -> None:
        run = suffix_of(self.model, images, self.places)
        clean = run([]).double()
        known = labels.to(clean.device) if labels is not None and self.model.cfg.output == "softmax" else None
        found = {"pictures": torch.ones(len(images)), "labelled": torch.full((len(images),), float(known is not None))}
        for name, hooks in self.hooks.items():
            answer = run(hooks).double() if hooks else clean
            if hooks:
                for what, value in _differences(clean, answer, self.model.cfg.output).items():
                    found[f"{what} {name}"] = value
            if known is not None:
                found[f"loss {name}"] = F.cross_entropy(answer, known, reduction="none")
                found[f"accuracy {name}"] = answer.argmax(dim=-1).eq(known)
        self.sums.add(found)

    def estimates(self, name: str) -> dict[str, Estimate]:
        """The measures of one of the dictionaries."""
        sums = self.sums
        parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        runs = {"clean": "clean", "sae": name} | {ablation: ablation for ablation in ABLATIONS}
        for what in ("kl", "agreement", "squared_difference", "loss", "accuracy"):
            counts = sums["labelled"] if what in ("loss", "accuracy") else sums["pictures"]
            parts |= {
                f"{what}_{run}": (sums[f"{what} {given}"], counts)
                for run, given in runs.items()
                if f"{what} {given}" in sums
            }
        if "loss clean" in sums:
            for ablation, cost in self._costs.items():
                parts[f"loss_recovered_{ablation}"] = sums[f"loss {ablation}"] - sums[f"loss {name}"], cost
        return ratios(parts)

    def left_out(self) -> list[str]:
        """Ablations that cost no loss, so that no share of it can be recovered."""
        if "loss clean" not in self.sums:
            return []
        return [
            f"loss recovered from {ablation}: with it the loss is not above that of the clean run, or not by more than its "
            "interval over the pictures"
            for ablation in ABLATIONS
            if ablation not in self._costs
        ]

    @cached_property
    def _costs(self) -> dict[str, np.ndarray]:
        """The loss that each ablation costs, where it does: a share of a difference that may be 0 means nothing.

        For when all pictures are added; the same for all dictionaries.
        """
        costs = {ablation: self.sums[f"loss {ablation}"] - self.sums["loss clean"] for ablation in ABLATIONS}
        means, lows, _ = bootstrap(
            np.stack(list(costs.values()), axis=1), np.stack([self.sums["labelled"]] * len(costs), axis=1)
        )
        certain = (means > 0) & ~(lows <= 0)
        return {ablation: cost for (ablation, cost), is_sure in zip(costs.items(), certain, strict=True) if is_sure}


def _differences(
    clean: Float[Tensor, "image classes"], other: Float[Tensor, "image classes"], output: str
) -> dict[str, Float[Tensor, "image"]]:
    """How far the logits of a run are from those of the unchanged model, by what they mean."""
    if output not in WITH_PROBABILITIES:
        return {"squared_difference": (clean - other).square().sum(dim=-1)}
    if output == "softmax":
        agree = (clean.argmax(dim=-1) == other.argmax(dim=-1)).double()
    else:
        agree = ((clean > 0) == (other > 0)).double().mean(dim=-1)
    return {"kl": kl_divergence(clean, other, output), "agreement": agree}


def _constant(
    placed: PlacedDictionary, part: int, row: Float[Tensor, "d"]
) -> tuple[str, Callable[[Tensor, HookPoint], Tensor]]:
    """A hook that puts one row in the place of every row that a part of a dictionary would reconstruct."""
    place = placed.targets[part]

    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        rows = place.split(activation)
        chosen = chosen_rows(placed.model, place, placed.tokens, rows.shape[1]).to(rows.device)
        view = split_rows(rows, len(row), place.name)
        return place.unite(view.index_copy(1, chosen, row.to(view).expand_as(view[:, chosen])).reshape(rows.shape))

    return place.name, replace


def labels_of(
    given: Int[Tensor, "picture"] | None, first: int, n: int, with_batch: Int[Tensor, "_"] | None
) -> Int[Tensor, "image"] | None:
    """The labels of n pictures from the first-th on: of those that were given, else those that came with them.

    Raises:
        InputError: there are fewer labels than pictures.
    """
    found = with_batch if given is None else given[first : first + n]
    if found is not None and len(found) != n:
        raise InputError(f"there are {len(found if given is None else given)} labels, and more pictures")
    return None if found is None else found.long()
