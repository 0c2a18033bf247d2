"""The results of patching and ablation: the metric of each patched run, its shift, its effect and its interval."""

from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.metrics import LOGIT_METRICS
from vitlens.data.class_names import short_name
from vitlens.errors import InputError, nearest
from vitlens.results.frames import Frame
from vitlens.results.result import Result
from vitlens.statistics import bootstrap

Found = TypeVar("Found", bound="Intervention")
#: See `Patching.ill_conditioned`.
MOST_SHIFTED, STANDARD_ERRORS = 2.0, 2.0
#: Effects beyond 0 and 1 by more than this are explained.
BEYOND = 0.05
#: What is said in place of a class's name if pictures have different classes.
EACH_ITS_OWN = "each picture's own"


@dataclass(frozen=True, repr=False, kw_only=True)
class Intervention(Result):
    """The metric of every patched run, `patched`, and of the run without a patch, `target` [image].

    Axes are (metric), (site), block, tokens and/or head or neuron, image; those in brackets only if several were given.
    Cells that an interrupted sweep did not reach are NaN. `classes` and `baseline_classes` [image, 1] are the classes of the
    metric; None if the metric is the user's own function. `settings` has their names under the same two words, or "each
    picture's own".
    """

    patched: Float[Tensor, "..."]
    target: Float[Tensor, "*metric image"]
    grid: tuple[int, int] | list[int]
    metric_name: str
    baseline_classes: Int[Tensor, "image class"] | None = None

    @property
    def complete(self) -> bool:
        """Whether every cell was reached."""
        return not self.patched.isnan().any()

    def columns(self) -> dict[str, Tensor]:
        return {self.quantity: self.values, "metric_value" if "metric" in self.axes else "metric": self.patched}

    def over_cells(self, per_image: Float[Tensor, "*metric image"]) -> Float[Tensor, "... image"]:
        """A number for each picture (and metric), with the axes of the cells between them."""
        n_between = self.patched.ndim - per_image.ndim
        return per_image.reshape(*per_image.shape[:-1], *[1] * n_between, per_image.shape[-1])

    def shift(self) -> Float[Tensor, "... image"]:
        """The metric of the patched run minus that of the run without a patch."""
        return self.patched - self.over_cells(self.target)

    def gap(self) -> Float[Tensor, "... image"]:
        """The shift that counts as an effect of 1, for each picture; here 1, so that effects are shifts."""
        return torch.ones_like(self.over_cells(self.target))

    def effect(self) -> Float[Tensor, "..."]:
        """The effect over all pictures: mean shift / mean gap, so that a picture with a tiny gap does not dominate."""
        return self.shift().mean(dim=-1) / self.gap().mean(dim=-1)

    def select(self: Found, **labels: Any) -> Found:
        """The part of the result at one label of some axes, such as `select(metric="logit", head=3)`.

        Raises:
            InputError: no such axis or label.
        """
        fields: dict[str, Any] = {item: getattr(self, item) for item in self.__dataclass_fields__}
        for axis, label in labels.items():
            axes = fields["axes"]
            if axis not in axes or axis == "image":
                raise InputError(f"there is no axis {axis!r} to select from: the axes are {', '.join(list(axes)[:-1])}")
            if label not in axes[axis] and not (isinstance(label, int) and -len(axes[axis]) <= label < len(axes[axis])):
                near = nearest(str(label), map(str, axes[axis]))
                raise InputError(f"the axis {axis} has no {label!r}; the nearest labels are {near}")
            place = axes[axis].index(label) if label in axes[axis] else label
            dim = list(axes).index(axis)
            fields |= {name: fields[name].select(dim, place) for name in ("values", "patched")}
            if axis == "metric":
                per_image = [name for name in ("target", "source") if name in fields]
                fields |= {name: fields[name][place] for name in per_image}
                fields["metric_name"] = str(axes[axis][place])
            chosen = {**fields["settings"], axis: axes[axis][place]}
            fields |= {"axes": {name: kept for name, kept in axes.items() if name != axis}, "settings": chosen}
        return type(self)(**fields)

    def metric_with_classes(self) -> str:
        """The metric in words, with the classes that it measures: "logit difference of “T-shirt” over “shirt”"."""
        name = self.metric_name.replace("_", " ")
        compared = self.baseline_classes if self.metric_name == "logit_difference" else None
        named = [name_of(classes, self.class_names) for classes in (self.classes, compared) if classes is not None]
        if self.metric_name not in LOGIT_METRICS or not named:
            return name
        if EACH_ITS_OWN in named:
            return f"{name} of each picture's own classes"
        return f"{name} of {' over '.join(f'“{short_name(one)}”' for one in named)}"

    def shown(self) -> tuple[str, Float[Tensor, "..."]]:
        """What figures show over all pictures, and its name: effects, or mean shifts where effects are ill-conditioned."""
        if self.ill_conditioned() is None:
            return self.quantity, self.effect()
        return "shift", self.shift().mean(dim=-1)

    def maps(self) -> Float[Tensor, "block rows columns"]:
        """The effect of single patches on the picture's grid.

        Raises:
            InputError: the sweep did not patch every patch by itself, or has other axes to select from first.
        """
        return self.on_grid(self.effect())

    def on_grid(self, values: Float[Tensor, "..."]) -> Float[Tensor, "block rows columns"]:
        """Values over all pictures, such as those of `effect`, on the picture's grid.

        Raises:
            InputError: the sweep did not patch every patch by itself, or has other axes to select from first.
        """
        labels = self.axes.get("tokens", [])
        patches = [i for i, label in enumerate(labels) if label.kind == "patch"]
        if len(patches) != self.grid[0] * self.grid[1]:
            raise InputError('a map needs every patch by itself: run the sweep with tokens="each"')
        require_axes(self, "block", "tokens")
        return values[:, patches].unflatten(-1, tuple(self.grid))

    @checked
    def summary(self, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """The effect over pictures with its bootstrap interval: one row per cell, sorted as the axes are.

        Whole pairs of pictures are resampled. An interval from few pairs says little; one pair has none (NaN). A note below
        the table says when effects are ill-conditioned (`Patching.ill_conditioned`).

        Raises:
            InputError: a level outside (0, 1).
        """
        shift = self.shift().movedim(-1, 0)
        gap = self.gap().expand_as(self.patched).movedim(-1, 0)
        mean, low, high = bootstrap(
            shift.double().cpu().numpy(), gap.double().cpu().numpy(), n_draws=n_draws, level=level, seed=seed
        )
        index = pd.MultiIndex.from_product(
            [labels for axis, labels in self.axes.items() if axis != "image"],
            names=[axis for axis in self.axes if axis != "image"],
        )
        table = Frame(
            {self.quantity: mean.ravel(), "low": low.ravel(), "high": high.ravel()}, index=index
        ).reset_index()
        table.attrs["note"] = self.ill_conditioned()
        return table

    def ill_conditioned(self) -> str | None:
        """Why effects are no shares of a difference, as a sentence; None where they are, or are not meant to be."""
        return None

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        effects = self.effect()[~self.effect().isnan()]
        span = "{:.3g} to {:.3g}".format(*(x.item() for x in torch.aminmax(effects))) if effects.numel() else "nothing"
        open_cells = "" if self.complete else f", {self.patched.isnan().double().mean():.0%} not reached"
        warned = "" if self.ill_conditioned() is None else "; ill-conditioned, see ill_conditioned()"
        head = f"{self.settings['site']}, {self.metric_with_classes()} [{axes}]"
        return f"{type(self).__name__}({head}, {self.quantity} {span}{open_cells}{warned})"


@dataclass(frozen=True, repr=False, kw_only=True)
class Patching(Intervention):
    """The effect of patching each cell, for each picture: 0 is the metric of the target run, 1 that of the source run.

    `patched` is the metric of the patched runs, `target` and `source` [image] the metric of the run that is patched into and
    of the run that activations come from. Denoising patches clean activations into the corrupted run, noising the reverse.
    `settings["method"]` is "exact" if every cell was run, else the name of the estimate.
    """

    source: Float[Tensor, "*metric image"]

    def gap(self) -> Float[Tensor, "... image"]:
        """The shift that counts as an effect of 1: the metric of the source run minus that of the target run."""
        return self.over_cells(self.source - self.target)

    def ill_conditioned(self) -> str | None:
        """Why effects are no shares of the difference between the two runs, as a sentence; None where they are.

        An effect divides a mean shift of the metric by the mean difference of the two runs. It is no share where

        - patching one cell moves the metric more than `MOST_SHIFTED` times as far as the two runs differ: large shifts then
          cancel in the difference, and the ratio is set by the little that is left; or
        - the mean difference lies within `STANDARD_ERRORS` standard errors of 0, over several pairs: its very sign is not
          known, and a ratio by it has no bounded interval (Fieller 1954).

        Read `shift()` instead, which is in units of the metric.
        """
        difference = (self.source - self.target).double()
        n_pairs = difference.shape[-1]
        mean = difference.mean(dim=-1).abs()
        error = difference.std(dim=-1) / n_pairs**0.5 if n_pairs > 1 else torch.zeros_like(mean)
        shift = self.shift().double().mean(dim=-1).abs().nan_to_num()
        largest = shift.reshape(*mean.shape, -1).amax(dim=-1)
        for name, size, spread, moved in zip(
            self.metric_name.split(", "), mean.reshape(-1), error.reshape(-1), largest.reshape(-1), strict=False
        ):
            of_metric = f"the two runs differ by {size:.2g} in {name.replace('_', ' ')}"
            if moved > MOST_SHIFTED * size:
                return (
                    f"ill-conditioned: {of_metric}, and patching one cell alone moves it by {moved:.2g}, so read "
                    "shift(), not effect()"
                )
            if size < STANDARD_ERRORS * spread:
                return (
                    f"ill-conditioned: over {n_pairs} pairs {of_metric}, with a standard error of {spread:.2g}, so read "
                    "shift(), not effect()"
                )
        return None

    def caution(self) -> str | None:
        """What to know before reading effects: that they are ill-conditioned, or lie outside 0 to 1; else None."""
        warned = self.ill_conditioned()
        if warned is not None:
            return warned
        effect = self.effect()
        over, under = bool((effect > 1 + BEYOND).any()), bool((effect < -BEYOND).any())
        said = ["above 1 goes beyond the source run"] * over + [
            "below 0 moves the metric away from the source run"
        ] * under
        return f"an effect {', one '.join(said)}" if said else None


@dataclass(frozen=True, repr=False, kw_only=True)
class Ablation(Intervention):
    """The change of the metric when a cell is ablated: `values` are `patched` − `target`, in units of the metric."""


def name_of(classes: Int[Tensor, "image class"], names: list[str] | None) -> str:
    """The class by its name, or by its number if the model has no names; it has to be the same for all pictures."""
    indices = classes.unique().tolist()
    if len(indices) > 1:
        return EACH_ITS_OWN
    return f"class {indices[0]}" if names is None else names[indices[0]]


def require_axes(result: Intervention, *axes: str) -> None:
    """Raises InputError if there are others, to select from."""
    others = [axis for axis in result.axes if axis not in (*axes, "image")]
    if others:
        example = f"{others[0]}={result.axes[others[0]][0]!r}"
        raise InputError(f"choose one {' and one '.join(others)} first: result.select({example})")
