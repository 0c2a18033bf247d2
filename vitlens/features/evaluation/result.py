"""The result of an evaluation: each measure of each dictionary, with intervals over pictures."""

from dataclasses import dataclass, field
from math import isnan
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.results.frames import Frame
from vitlens.results.result import Result

#: The name of the dictionary that was asked for; the others are named after what they are.
EVALUATED = "dictionary"
#: The measures that a printout names, and how; all are in `to_frame()`.
PRINTED = {
    "explained_variance": "explained",
    "l0": "l0",
    "dead_share": "dead",
    "dense_share": "dense",
    "kl_sae": "kl",
    "agreement_sae": "agreement",
    "loss_recovered_mean": "recovered",
    "morans_i": "Moran's I",
    "monosemanticity": "alike",
    "class_monosemanticity": "one class",
    "probing": "probing",
    "absorption": "absorption",
}
#: How many of them the short form names.
N_SHORT = 5


@dataclass(frozen=True, repr=False)
class DictionaryEvaluation(Result):
    """`values`, `low` and `high` [dictionary, measure]; NaN where a dictionary has no such measure, or no interval.

    The first dictionary is the one that was asked for: `result["l0"]` is its measure, `result["pca", "l0"]` that of
    another. `density` [feature] is the share of rows in which each of its features is on, `mean_activation` the mean value.
    `locality` and `monosemanticity` [feature] are its scores feature by feature where they were measured, and NaN for
    features that they cannot be measured for. `left_out` says what was not measured, and why. Printed, it is a table.
    The page "Judging dictionaries" defines every measure.
    """

    low: Float[Tensor, "dictionary measure"]
    high: Float[Tensor, "dictionary measure"]
    density: Float[Tensor, "feature"]
    mean_activation: Float[Tensor, "feature"]
    locality: Float[Tensor, "feature"] | None = None
    monosemanticity: Float[Tensor, "feature"] | None = None
    left_out: list[str] = field(default_factory=list)

    def __getitem__(self, measure: str | tuple[str, str]) -> float:
        """A measure by name, or by the names of a dictionary and of the measure."""
        return float(self.values[self._place(measure)])

    def interval(self, metric: str | tuple[str, str]) -> tuple[float, float]:
        """The 95 % interval of a measure over pictures; NaN where it has none."""
        place = self._place(metric)
        return float(self.low[place]), float(self.high[place])

    def columns(self) -> dict[str, Tensor]:
        return {self.quantity: self.values, "low": self.low, "high": self.high}

    def table(self) -> pd.DataFrame:
        """The measures that matter most, a row for each dictionary; "–" where it has no such measure."""
        named = [name for name in PRINTED if name in self.axes["measure"]]
        rows = [
            {"dictionary": dictionary, **{PRINTED[name]: self._written(dictionary, name) for name in named}}
            for dictionary in self.axes["dictionary"]
        ]
        return Frame(rows).set_index("dictionary")

    def __repr__(self) -> str:
        named = [name for name in PRINTED if name in self.axes["measure"]][:N_SHORT]
        found = ", ".join(f"{name} {self[name]:.3g}" for name in named)
        return f"DictionaryEvaluation({self.settings['hook']}, tokens: {self.settings['tokens']}; {found})"

    def __str__(self) -> str:
        about: dict[str, Any] = self.settings
        head = f"{about['hook']} of {about['model']}, tokens: {about['tokens']}, {about['pictures']:,} pictures"
        lines = [head, str(self.table()), *(f"left out: {why}" for why in self.left_out)]
        return "\n".join(lines)

    def _written(self, dictionary: str, measure: str) -> str:
        value = self[dictionary, measure]
        return "–" if isnan(value) else f"{value:.1f}" if measure == "l0" else f"{value:.3f}"

    def _place(self, measure: str | tuple[str, str]) -> tuple[int, int]:
        dictionary, measure = measure if isinstance(measure, tuple) else (self.axes["dictionary"][0], measure)
        for axis, name in (("dictionary", dictionary), ("measure", measure)):
            if name not in self.axes[axis]:
                raise InputError(f"this evaluation has {', '.join(self.axes[axis])}, not {name!r}")
        return self.axes["dictionary"].index(dictionary), self.axes["measure"].index(measure)
