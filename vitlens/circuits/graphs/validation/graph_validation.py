"""Does an attribution graph predict what changes of its features do to the model itself?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from vitlens.arguments import check_count, checked, number
from vitlens.circuits.graphs.edges import Sources, unit_label
from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.graph_run import GraphRun, run_of_graph
from vitlens.circuits.graphs.replacement import Transcoders
from vitlens.circuits.graphs.validation.matched_units import activity_of, matched_units, places_of
from vitlens.circuits.graphs.validation.measured_changes import MeasuredChanges
from vitlens.circuits.graphs.validation.total_effects import TotalEffects
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.results.frames import Frame
from vitlens.results.result import Result


@dataclass(frozen=True, repr=False)
class GraphValidation(Result):
    """`values` [unit, logit]: how much a logit of the model changes when a unit is scaled or removed at its token.

    `predicted` is what the graph predicts: the unit's edge into the logit, and its edges through the graph's other units.
    `frozen` is what is measured where attention patterns, scales of norms and gates are held as they were, as the graph has
    them. `gradient` is what the model's own gradient predicts, which follows patterns and norms: where it is right and the
    graph is not, patterns or norms answered. `named` says which units are the graph's; the others are random, and as active
    as their block has them: `activity` is the length of what a unit writes, |activation| · ‖direction‖.
    """

    predicted: Float[Tensor, "unit logit"]
    frozen: Float[Tensor, "unit logit"]
    gradient: Float[Tensor, "unit logit"]
    named: Bool[Tensor, "unit"]
    activity: Float[Tensor, "unit"]

    def columns(self) -> dict[str, Tensor]:
        activity, named = (part[:, None].expand_as(self.values) for part in (self.activity, self.named))
        return {
            self.quantity: self.values,
            "predicted": self.predicted,
            "frozen": self.frozen,
            "gradient": self.gradient,
            "activity": activity,
            "named": named,
        }

    def summary(self, *, n_draws: int = 1000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
        """Correlations of predicted with measured changes, and their bootstrap intervals over units.

        One row for the graph's units and for random ones ("units"), and for each pair of a prediction ("predicted_by": the
        graph, the model's gradient) and a measurement ("measured_in": the model, the model with frozen patterns and norms).
        "activity" is the mean of the units', "change" that of the measured changes' magnitudes; "pearson" and "spearman" are
        NaN where nothing varies.

        Args:
            n_draws: bootstrap samples of the interval.
            level: that of the interval.

        Raises:
            InputError: fewer than one draw, a level outside (0, 1).
        """
        check_count(n_draws, "n_draws")
        number()("level", level)
        if not 0 < level < 1:
            raise InputError(f"the level of an interval lies between 0 and 1, not at {level}")
        pairs = (
            ("graph", "model", self.predicted, self.values),
            ("graph", "frozen model", self.predicted, self.frozen),
            ("gradient", "model", self.gradient, self.values),
        )
        rows = []
        for units, mine in (("named", self.named), ("random", ~self.named)):
            for by, where, predicted, measured in pairs:
                x, y = (part[mine].double().cpu().numpy() for part in (predicted, measured))
                if not len(x):
                    continue
                rows.append(
                    {
                        "units": units,
                        "predicted_by": by,
                        "measured_in": where,
                        "n": len(x),
                        "activity": self.activity[mine].double().mean().item(),
                        "change": np.abs(y).mean(),
                        **_correlations(x, y, n_draws, level, seed),
                    }
                )
        return Frame(rows)

    def misses(self, k: int = 10) -> pd.DataFrame:
        """The k changes of the graph's units in which measured and predicted differ most, the worst first.

        Raises:
            InputError: k below 1.
        """
        check_count(k, "k")
        frame = self.to_frame()
        frame = frame[frame["named"]].drop(columns="named")
        frame["miss"] = frame[self.quantity] - frame["predicted"]
        worst = frame["miss"].abs().sort_values(ascending=False, kind="stable").index[:k]
        return Frame(frame.loc[worst].reset_index(drop=True))


@leaves_state
@checked
@gradients_disabled()
def validate_graph(
    model: HookedViT,
    images: Pictures,
    graph: AttributionGraph,
    *,
    transcoders: Transcoders = None,
    factor: float = 0.0,
    k: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> GraphValidation:
    """Scales each unit that a graph names in the real model, and compares the logit's change with what the graph predicts.

    A unit is a feature or neuron at one token. What it writes there is multiplied by `factor`; all else that the MLP writes
    stays, errors included, and the later blocks run on it, with their own MLPs. The graph predicts

        change = (factor − 1) · (effect on the logit + Σ_v effect on v · slope_v / activation_v · total effect of v)

    over its units v: linearly, whatever thresholds they have, with attention patterns, norms and gates as they were. The
    same is done with as many random units that the graph does not name, of the same blocks and about the same activity: is
    the graph's choice a choice?

    Args:
        images: the graph's picture.
        graph: from `attribution_graph`, whole or pruned.
        transcoders: those that the graph was made with.
        factor: 0 removes a unit, 2 doubles it.
        k: only the units with the k greatest predicted changes; None: all.
        seed: draws the random units.
        batch_size: runs at once; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        GraphValidation with axes unit, logit; `summary()` has the correlations, `misses()` the worst predictions.

    Raises:
        InputError: the graph is of another picture, model or dictionary, has groups of nodes or no units; a factor of 1;
            neurons that share a norm behind them.

    Source: Ameisen et al. 2025 (Circuit Tracing), section 5 and appendix on validation by perturbation.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> transcoders = vitlens.demo.load_demo_transcoders()
        >>> about = {"classes": "bag", "baseline_classes": "T-shirt", "transcoders": transcoders}
        >>> graph = vitlens.attribution_graph(model, images[5:6], **about, n_nodes=50)
        >>> found = vitlens.circuits.validate_graph(model, images[5:6], graph, transcoders=transcoders)
        >>> found.summary().query("units == 'named'")[["predicted_by", "measured_in", "pearson"]].round(1)
          predicted_by   measured_in  pearson
        0        graph         model      0.7
        1        graph  frozen model      1.0
        2     gradient         model      0.8
    """
    number()("factor", factor)
    if factor == 1:
        raise InputError("factor=1 changes nothing: pass another, such as 0 to remove units")
    of = run_of_graph(model, images, graph, transcoders)
    effects = TotalEffects(of)
    if not effects.units:
        raise InputError("the graph has no units whose changes it predicts: make it with more nodes")
    chosen = torch.arange(len(effects.units))
    if k is not None:
        strongest = effects.of_units.abs().max(dim=0).values.topk(min(k, len(chosen)))
        chosen = strongest.indices.sort().values.cpu()
    sources = Sources(of.run, of.replacements)
    taken = places_of(sources, effects.units)
    named = taken[chosen]
    others = matched_units(sources, named, taken, seed)
    predicted = torch.cat([effects.of_units[:, chosen], effects.of_others(_edges(of, sources, others))], dim=1).T
    places = torch.cat([named, others])
    units = [unit_label(*sources.at(place), graph.tokens) for place in places.tolist()]
    size = batch_size or default_batch_size(model, of.run.n_tokens)
    runs = MeasuredChanges(of, factor, size)
    with ProgressBar(len(units), "validate graph", "unit", progress, -(-len(units) // size)) as bar:
        measured, frozen = runs.measure(units, bar.update)
    return GraphValidation(
        measured,
        {"unit": units, "logit": [label for label in graph.targets if label.kind == "logit"]},
        "measured",
        predicted=((factor - 1) * predicted).to(measured),
        frozen=frozen,
        gradient=runs.by_gradient(units),
        named=torch.arange(len(units)) < len(named),
        activity=activity_of(sources)[places],
        classes=graph.classes,
        class_names=graph.class_names,
        pixels=graph.pixels,
        settings={**graph.settings, "factor": factor, "seed": seed},
    )


def _edges(of: GraphRun, sources: Sources, places: Tensor) -> Float[Tensor, "target other"]:
    """The edges from units at these places into all targets of the graph."""
    n = len(of.graph.targets)
    size = sources.targets_at_once
    found = of.run.mlp_out(0).new_zeros(n, len(places))
    ordered, _ = of.reads(range(n))
    for first in range(0, n, size):
        order, reads = of.reads(ordered[first : first + size])
        found[order] = sources.edges_into(reads)[0][:, places]
    return found


def _correlations(x: np.ndarray, y: np.ndarray, n_draws: int, level: float, seed: int) -> dict[str, float]:
    """Those over units [unit, logit] and their intervals, which draw whole units."""
    drawn = np.random.default_rng(seed).integers(len(x), size=(n_draws, len(x)))
    samples = np.concatenate([np.arange(len(x))[None], drawn])
    found: dict[str, float] = {}
    for name, change in (("pearson", lambda part: part), ("spearman", lambda part: rankdata(part, axis=1))):
        values = _row_by_row(*(change(part[samples].reshape(len(samples), -1)) for part in (x, y)))
        low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2]) if len(x) > 2 else (np.nan,) * 2
        found |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return found


def _row_by_row(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The correlation of each row of x with that of y."""
    x, y = (part - part.mean(axis=1, keepdims=True) for part in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
