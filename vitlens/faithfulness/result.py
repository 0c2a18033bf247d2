"""The result of `evaluate_heatmaps`: every metric of every map on every picture, with intervals, and the curves."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError, nearest
from vitlens.faithfulness.metrics import CURVES, METRICS
from vitlens.results.result import Result
from vitlens.statistics import bootstrap, with_interval

#: Intervals over fewer pictures than these are usually too narrow.
FEW = 10


def few(n_images: int) -> str:
    """What a table of few pictures says of its intervals."""
    if n_images >= FEW:
        return ""
    return "; one picture has no interval" if n_images == 1 else f"; intervals over {n_images} pictures are unreliable"


@dataclass(frozen=True, repr=False)
class Faithfulness(Result):
    """`values` [method, metric, image]: each metric of each map, NaN where a picture has none; and the `curves`.

    `curves` holds the probability of the class, `correct` whether it is predicted, of the curves called `curve_names` at
    the `shares` of the picture [curve, step]; curves of fewer steps end in NaN. In the row "random" all are means over
    several random maps.
    """

    curves: Float[Tensor, "method curve image step"]
    correct: Float[Tensor, "method curve image step"]
    shares: Float[Tensor, "curve step"]
    curve_names: list[str]

    def definitions(self) -> dict[str, str]:
        """The protocol of each metric, with the direction that is better."""
        return {name: f"{METRICS[name].arrow} {METRICS[name].definition}" for name in self.axes["metric"]}

    def curve(self, name: str, quantity: str | None = None) -> tuple[list[float], Float[Tensor, "method image step"]]:
        """The shares and the values of a curve.

        Args:
            quantity: "probability" or "accuracy"; by default what the curve is published for.

        Raises:
            InputError: a curve that was not run, an unknown quantity.
        """
        if name not in self.curve_names:
            raise InputError(f"there is no curve {name!r} here, only {', '.join(self.curve_names) or 'none'}")
        wanted = CURVES[name].quantity if quantity is None else quantity
        if wanted not in ("probability", "accuracy"):
            raise InputError(f"a curve is of probability or accuracy, not {wanted!r}")
        at = self.curve_names.index(name)
        there = self.shares[at].isfinite()
        values = self.curves if wanted == "probability" else self.correct
        return self.shares[at, there].tolist(), values[:, at][..., there]

    @checked
    def summary(self, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """One row a method; for each metric the mean over pictures and the ends of its bootstrap interval.

        `summary()["deletion"]` has the columns mean, low and high; `definitions()` says what the metrics are.
        """
        numbers = {
            name: bootstrap(self._by_picture(name), level=level, n_draws=n_draws, seed=seed)
            for name in self.axes["method"]
        }
        columns = pd.MultiIndex.from_product([self.axes["metric"], ["mean", "low", "high"]], names=["metric", ""])
        return pd.DataFrame(
            [np.stack(ends, axis=1).flatten() for ends in numbers.values()],
            index=pd.Index(list(numbers), name="method"),
            columns=columns,
        )

    @checked
    def paired(
        self, method_a: str, method_b: str, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0
    ) -> pd.DataFrame:
        """By how much method a differs from b, picture by picture: mean difference, its bootstrap interval, and which of
        them is better where the interval does not contain 0.

        Raises:
            InputError: a method that was not scored.
        """
        names = (method_a, method_b)
        mean, low, high = bootstrap(
            self._by_picture(method_a) - self._by_picture(method_b), level=level, n_draws=n_draws, seed=seed
        )
        sign = np.array([1 if METRICS[name].higher_is_better else -1 for name in self.axes["metric"]])
        better = np.where((low > 0) | (high < 0), np.where(mean * sign > 0, *names), "")
        return pd.DataFrame(
            {"difference": mean, "low": low, "high": high, "better": better},
            index=pd.Index(self.axes["metric"], name="metric"),
        )

    def sentence(self, level: float = 0.95) -> str:
        """The summary as text, and below it what each metric is."""
        numbers = self.summary(level=level)
        cells = {
            METRICS[metric].title: [with_interval(mean, low, high) for mean, low, high in numbers[metric].to_numpy()]
            for metric in self.axes["metric"]
        }
        shown = pd.DataFrame(cells, index=numbers.index).rename_axis(None)
        meaning = "\n".join(f"{name} {definition}" for name, definition in self.definitions().items())
        heading = f"{self.protocol()}; mean over pictures [{level:.0%} interval]{few(len(self.axes['image']))}"
        return f"{heading}\n\n{shown.to_string()}\n\n{meaning}"

    def protocol(self) -> str:
        """Model, pictures, and the settings that metrics share."""
        n, settings = len(self.axes["image"]), self.settings
        facts = [str(settings["model"]), f"{n} picture{'s' * (n != 1)}", f"{settings['classes']} class"]
        if {"deletion", "insertion"} & set(self.curve_names):
            facts.append(f"replacement {settings['replacement']}")
        return ", ".join(facts)

    def __str__(self) -> str:
        return self.sentence()

    def _by_picture(self, method: str) -> Float[np.ndarray, "image metric"]:
        if method not in self.axes["method"]:
            near = nearest(method, self.axes["method"])
            raise InputError(f"there is no method {method!r} in this result: it has {near}")
        return self.values[self.axes["method"].index(method)].T.cpu().double().numpy()
