"""Finds the texts that go best with the pictures of units, and measures what chance gives in their place."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.text.names.likeness_scores import Auc, SoftWpmi, best_by_chance
from vitlens.text.names.turned import N_TURNED, turned_about_mean
from vitlens.text.names.unit_values import UnitTable


def name_units(
    table: UnitTable,
    texts: Float[np.ndarray, "text e"],
    method: str,
    n_examples: int,
    scale: float,
    k: int,
    n_draws: int,
    seed: int,
    progress: bool | None,
) -> dict[str, Tensor]:
    """The fields of the result: the k best texts of each unit, and what stands beside them."""

    def naming(rows: Float[np.ndarray, "text e"]) -> Naming:
        return Naming(table.values, table.embeddings @ rows.astype(table.embeddings.dtype).T, method, n_examples, scale)

    found = naming(texts).best(k, n_draws, seed)
    generator = np.random.default_rng(seed)
    best = np.empty((N_TURNED, table.values.shape[1]))
    with ProgressBar(N_TURNED, "lists turned at random", "list", progress, N_TURNED) as bar:
        for row in best:
            row[:] = naming(turned_about_mean(texts, generator)).scores().max(axis=1)
            bar.update(1)
    values = found["values"].numpy()
    p = (1 + (best[:, :, None] >= values).sum(axis=0)) / (1 + N_TURNED)
    found["p_turned"] = torch.from_numpy(np.where(np.isnan(values), np.nan, p))
    return found | {"turned": torch.from_numpy(best.mean(axis=0))}


class Naming:
    """The scores of all texts for all units, and which are best."""

    def __init__(
        self,
        values: Float[np.ndarray, "image unit"],
        cosines: Float[np.ndarray, "image text"],
        method: str,
        n_examples: int,
        scale: float,
    ) -> None:
        self.values, self.cosines, self.method, self.n_examples = values, cosines, method, n_examples
        least, most = self.values.min(axis=0), self.values.max(axis=0)
        self.is_on = self.values > least
        # Halves first: the sum of two large numbers of half precision may be infinite.
        self.is_active = self.values > least / 2 + most / 2
        self.score = self.auc if method == "auc" else SoftWpmi(cosines, n_examples, scale)

    @cached_property
    def auc(self) -> Auc:
        return Auc(self.cosines)

    @cached_property
    def sizes(self) -> Int[np.ndarray, "feature"]:
        """How many pictures a unit is scored by."""
        if self.method == "auc":
            return self.is_active.sum(axis=0)
        return np.minimum(self.is_on.sum(axis=0), self.n_examples)

    def scores(self) -> Float[np.ndarray, "feature text"]:
        """The score of each text; NaN of a unit that is the same in all pictures."""
        if self.method == "auc":
            return self.auc.of_sets(self.is_active.T)
        found = np.full((len(self.sizes), self.cosines.shape[1]), np.nan)
        for unit, size in enumerate(self.sizes):
            if size:
                order = np.argsort(-self.values[:, unit], kind="stable")[:size]
                found[unit] = self.score.of_first(order)[-1]
        return found

    def best(self, k: int, n_draws: int, seed: int) -> dict[str, Tensor]:
        """The k best texts of each unit, and what they would be by chance."""
        scores = self.scores()
        indices = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(scores, indices, axis=1)
        indices = np.where(np.isnan(values), -1, indices)
        chance = best_by_chance(self.score, self.sizes, len(self.values), n_draws, seed)
        # Equal sets of pictures must count as equal whatever the order of the sum.
        rounding = 1e-12 * np.abs(values)
        p = (1 + (chance[:, :, None] >= values - rounding).sum(axis=0)) / (1 + n_draws)
        areas = np.full((3, *values.shape), np.nan)
        for unit in np.flatnonzero(self.sizes):
            areas[:, unit] = self.auc.with_intervals(self.is_active[:, unit], indices[unit])
        found = {
            "values": values,
            "auc": areas[0],
            "low": areas[1],
            "high": areas[2],
            "p": np.where(np.isnan(values), np.nan, p),
            "indices": indices,
            "chance": chance.mean(axis=0),
            "n_active": self.is_active.sum(axis=0),
        }
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}
