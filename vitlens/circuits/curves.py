"""Evaluates circuits: faithfulness and completeness over size, and how much each edge is needed."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked, items, short
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics, several
from vitlens.choose.texts import takes_text
from vitlens.circuits.circuit import Circuit, as_mask, check_size, edge_effects, prune, rank_edges
from vitlens.circuits.edge_runs import run_edges
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import Graph
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.patching.results import Patching
from vitlens.patching.whole_runs import WholeRuns, make_result, run_pair
from vitlens.statistics import bootstrap

EdgeMasks = Bool[Tensor, "circuit writer reader"]


@dataclass(frozen=True, repr=False, kw_only=True)
class CircuitCurve(Patching):
    """How much of the metric circuits of growing size recover: 0 is the corrupted run, 1 the clean run.

    Axes are run, size, image. The runs are "circuit" (C: its edges are kept, all others resampled), "complement" (M ∖ C:
    the reverse), and "random 1", … (random circuits as large as C). `size` is the number of edges before those on no path
    from input to logits are removed; `n_edges` is, for each run, the number after that.
    """

    n_edges: dict[str, list[int]]

    def faithfulness(self) -> Float[Tensor, "size"]:
        """(m(C) − m(corrupted)) / (m(clean) − m(corrupted)), means over pictures: 1 if the circuit does it all."""
        return self.select(run="circuit").effect()

    def completeness(self) -> Float[Tensor, "size"]:
        """(m(M ∖ C) − m(corrupted)) / (m(clean) − m(corrupted)): 0 if nothing outside the circuit does it too."""
        return self.select(run="complement").effect()

    @checked
    def summary(self, *, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """As `Intervention.summary`; with the number of edges kept where runs and sizes are both axes."""
        table = super().summary(level=level, n_draws=n_draws, seed=seed)
        if {"run", "size"} <= set(self.axes):
            table.insert(2, "n_edges", [kept for run in self.axes["run"] for kept in self.n_edges[run]])
        return table


@leaves_state
@checked
@takes_text("predicted")
def evaluate_circuits(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    scores: Patching | Circuit | Sequence[Circuit],
    sizes: int | Sequence[int] | None = None,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    method: str = "threshold",
    signed: bool = False,
    n_draws: int = 3,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> CircuitCurve:
    """Measures faithfulness and completeness of circuits of several sizes, and of random circuits of the same sizes.

    Faithfulness is m(C) and completeness m(M ∖ C), both on a scale where the corrupted run is 0 and the clean run is 1: in
    M ∖ C the circuit's edges are resampled and all others kept. Use other pictures than those the scores come from.

    Args:
        scores: of every edge, as `find_circuit` takes them; or circuits to evaluate as they are.
        sizes: numbers of edges; by default about ten, evenly spaced by their logarithm, up to all edges.
        method, signed: as in `find_circuit`, for each size.
        n_draws: random circuits for each size. They are made like the others, from random scores, and have as many edges on
            paths from the input to the logits as the circuit that they are compared with.
        classes, baseline_classes, metric: as in `activation_patching`, one metric.
        batch_size: pictures of a forward, counted once for every run; by default as many as are fast and fit.
        progress: show a bar; by default on a terminal only.

    Returns:
        CircuitCurve with axes run, size, image.

    Raises:
        InputError: as `find_circuit` and `activation_patching`; sizes that are not positive, or more edges than there are;
            several metrics; a circuit of another architecture.

    Source: Wang et al. 2023 (Interpretability in the Wild), section 4: faithfulness, and completeness for the subset K = C
        (|F(∅) − F(M ∖ C)|); normalised as in Hanna et al. 2024 (Have Faith in Faithfulness); edges resampled as
        in Conmy et al. 2023 (ACDC).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> clean, corrupted = images[4:5], images[5:6]
        >>> scores = vitlens.patching.edge_attribution_patching(model, clean, corrupted)
        >>> curve = vitlens.circuits.evaluate_circuits(model, clean, corrupted, scores=scores, sizes=[20, 400], n_draws=1)
        >>> curve.axes["run"]
        ['circuit', 'complement', 'random 1']
        >>> curve.faithfulness().shape  # one number for each size
        torch.Size([2])
    """
    graph = Graph(model)
    _check_metric(metric)
    whole = run_pair(model, clean, corrupted, classes, baseline_classes, metric, "denoise")
    if isinstance(scores, Patching):
        asked = _sizes(graph, sizes)
        effect = edge_effects(graph, scores)
        ranked = list(rank_edges(graph, effect if signed else effect.abs(), method))
        circuits = torch.stack([prune(graph, as_mask(graph, ranked[:size])) for size in asked])
    else:
        if sizes is not None:
            raise InputError("sizes= goes with scores, not with given circuits: leave it out")
        given: list[Any] = list(scores) if isinstance(scores, (list, tuple)) else [scores]
        if not given:
            raise InputError("the list of circuits is empty")
        for circuit in given:
            if not isinstance(circuit, Circuit):
                raise InputError(
                    "scores are those of all edges, as edge_attribution_patching makes them, or circuits, not "
                    f"{short(circuit)}"
                )
        asked = [len(circuit) for circuit in given]
        circuits = torch.stack([circuit.mask(graph) for circuit in given])
    runs = {"circuit": circuits, "complement": graph.exists & ~circuits}
    generator = torch.Generator().manual_seed(seed)
    for draw in range(n_draws):
        runs[f"random {draw + 1}"] = _random_circuits(graph, circuits.sum(dim=(1, 2)).tolist(), method, generator)
    patched = _measured(graph, whole, torch.cat(list(runs.values())), batch_size, progress, "evaluating circuits")
    counts = {run: masks.sum(dim=(1, 2)).tolist() for run, masks in runs.items()}
    return make_result(
        CircuitCurve,
        whole,
        {"run": list(runs), "size": asked},
        patched.unflatten(0, (len(runs), len(asked)))[None],
        quantity="faithfulness",
        settings={"site": "circuit", "method": method, "signed": signed, "seed": seed},
        n_edges=counts | {"complement": counts["circuit"]},
    )


@leaves_state
@checked
@takes_text("predicted")
def minimality(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    circuit: Circuit,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Measures how much faithfulness falls when each edge of the circuit is resampled: a minimal circuit needs all of them.

    It runs the model once per edge, so it is meant for circuits and not for whole graphs.

    Args:
        classes, baseline_classes, metric: as in `activation_patching`, one metric.
        level, seed: of the bootstrap interval over pictures.

    Returns:
        A table with the columns edge, drop, low, high, faithfulness (of the circuit without the edge), largest drop first.
        The faithfulness of the whole circuit is in the table's attrs["faithfulness"].

    Raises:
        InputError: an empty circuit, or one of another architecture; as `activation_patching`; several metrics.

    Source: Wang et al. 2023, section 4 (minimality, of edges instead of heads and with K = ∅); Conmy et al. 2023.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> clean, corrupted = images[4:5], images[5:6]
        >>> scores = vitlens.patching.edge_attribution_patching(model, clean, corrupted)
        >>> circuit = vitlens.find_circuit(model, scores, n_edges=8, method="greedy")
        >>> table = vitlens.circuits.minimality(model, clean, corrupted, circuit=circuit)
        >>> list(table.columns)
        ['edge', 'drop', 'low', 'high', 'faithfulness']
        >>> len(table) == len(circuit)
        True
    """
    graph = Graph(model)
    if not len(circuit):
        raise InputError("the circuit is empty, so there is no edge to remove")
    mask = circuit.mask(graph)
    _check_metric(metric)
    whole = run_pair(model, clean, corrupted, classes, baseline_classes, metric, "denoise")
    places = mask.nonzero()
    without = mask.repeat(len(places), 1, 1)
    without[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    runs = torch.cat([mask[None], without])
    patched = _measured(graph, whole, runs, batch_size, progress, "removing edges").double().cpu().numpy()
    target, source = (run[0].double().cpu().numpy() for run in (whole.found["target"], whole.found["source"]))
    gap = source - target
    fall = (patched[:1] - patched[1:]).T
    drop, low, high = bootstrap(fall, np.broadcast_to(gap[:, None], fall.shape), level=level, seed=seed)
    faithfulness = (patched - target).mean(axis=1) / gap.mean()
    names = [f"{graph.writers[w]}->{graph.readers[r]}" for w, r in places.tolist()]
    table = pd.DataFrame({"edge": names, "drop": drop, "low": low, "high": high, "faithfulness": faithfulness[1:]})
    table = table.sort_values("drop", ascending=False, ignore_index=True)
    table.attrs["faithfulness"] = float(faithfulness[0])
    return table


def _check_metric(metric: Metrics) -> None:
    """Raises InputError for several metrics."""
    if several(metric):
        raise InputError("circuits are evaluated by one metric at a time")


def _sizes(graph: Graph, sizes: int | Sequence[int] | None) -> list[int]:
    n_all = int(graph.exists.sum())
    if sizes is None:
        return sorted({round(size) for size in np.geomspace(min(8, n_all), n_all, 10)})
    sizes = items(sizes)
    if not sizes:
        raise InputError("the list of sizes is empty")
    for size in sizes:
        check_size(graph, size, "a circuit's size")
    return sorted(set(sizes))


def _random_circuits(graph: Graph, n_edges: list[int], method: str, generator: torch.Generator) -> EdgeMasks:
    """Nested circuits of random edges, each with at least the given number of edges on paths."""
    scores = torch.rand(graph.exists.shape, generator=generator, dtype=torch.float64)
    ranked = list(rank_edges(graph, scores, method))

    def first(n: int) -> Bool[Tensor, "writer reader"]:
        return prune(graph, as_mask(graph, ranked[:n]))

    cuts = [bisect_left(range(len(ranked)), n, key=lambda size: int(first(size).sum())) for n in n_edges]
    return torch.stack([first(cut) for cut in cuts])


def _measured(
    graph: Graph, whole: WholeRuns, runs: EdgeMasks, batch_size: int | None, progress: bool | None, description: str
) -> Float[Tensor, "circuit image"]:
    """The metric of every run."""
    logits = run_edges(
        graph,
        whole.source,
        whole.target,
        runs,
        batch_size=batch_size,
        progress=progress,
        description=description,
    )
    return torch.stack(
        [
            whole.measures(of_run, f"the circuit of {int(run.sum())} edges")[0]
            for of_run, run in zip(logits, runs, strict=True)
        ]
    )
