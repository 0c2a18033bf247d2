"""Finds a circuit by testing: edges are removed one after the other as long as the decision stays what it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from math import isclose
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics, several
from vitlens.choose.texts import takes_text
from vitlens.circuits.circuit import Circuit, architecture, edge_effects, prune, reader_nodes
from vitlens.circuits.edge_runs import EdgePair, edge_rows
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import Graph
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.patching.results import Patching
from vitlens.patching.sweep import Interrupts
from vitlens.patching.whole_runs import WholeRuns, run_pair

Edge = tuple[int, int]


@leaves_state
@checked
@takes_text("predicted")
def prune_circuit(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes = None,
    *,
    circuit: Circuit | None = None,
    scores: Patching | None = None,
    max_change: float = 0.01,
    baseline_classes: Classes = None,
    metric: Metrics = "logit_difference",
    batch_size: int | None = None,
    progress: bool | None = None,
    resume: Circuit | None = None,
) -> Circuit:
    """Removes edges one by one, from the logits back to the input, each if the metric without it stays nearly as it was.

    A removed edge carries what its writer wrote on the corrupted picture, and stays removed while the next one is tested.
    So of two edges that do the same the last one is kept, and edges count that only matter together: scores of single edges
    see neither. Any corruption will do: another picture, or the same one with what is around the object replaced
    (`vitlens.replace_context`).

    With Δ(C) = mean |metric(C) − metric(clean)| / mean |metric(clean) − metric(corrupted)| over pictures, an edge is removed
    if Δ rises by less than `max_change`. Edges into parts that no longer write to anything go without a test.

    Many small changes add up: look at the faithfulness of what is left (`evaluate_circuits`), and take a smaller
    `max_change` where it is low. A large model, with many ways round each edge, needs a smaller one.

    It runs the model once per edge that is tested, and keeps the activations of all pictures in memory: take few pairs.

    Args:
        circuit: the edges to begin with; by default all edges of the model.
        scores: of every edge, as `find_circuit` takes them. Of the edges into one reader those with the smallest effects are
            tested first; by default the latest writers'.
        max_change: the least rise of Δ for which an edge is kept.
        classes, baseline_classes, metric: as in `activation_patching`, one metric.
        batch_size: rows of a forward, one for each picture and edge; by default as many as are fast. The result is the same.
        progress: show a bar; by default on a terminal only.
        resume: the partial result of the same call: if you interrupt it, it returns the circuit so far, in which edges that
            were not tested yet have the score NaN.

    Returns:
        The circuit, without edges on no path from the input to the logits. `scores` are the rises of Δ that each edge had
        when it was tested.

    Raises:
        InputError: as `activation_patching`; several metrics; a max_change that is not positive; a circuit or scores of
            another architecture; nothing is left.

    Source: Conmy et al. 2023 (ACDC), algorithm 1, with Δ in place of their divergence; Żukowska et al. 2026 (Vi-CD), for
        vision transformers.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> clean, corrupted = images[4:5], images[5:6]
        >>> scores = vitlens.patching.edge_attribution_patching(model, clean, corrupted, method="integrated_inputs")
        >>> large = vitlens.find_circuit(model, scores, n_edges=100, method="greedy")
        >>> small = vitlens.circuits.prune_circuit(model, clean, corrupted, circuit=large, max_change=0.02)
        >>> len(small) < len(large) / 2
        True
        >>> curve = vitlens.circuits.evaluate_circuits(model, clean, corrupted, scores=[large, small], n_draws=0)
        >>> curve.faithfulness().min() > 0.7
        tensor(True)
    """
    graph = Graph(model)
    if not max_change > 0:
        raise InputError(f"max_change is a share of the difference between the two runs above 0, not {max_change}")
    if several(metric):
        raise InputError("circuits are pruned by one metric at a time")
    given = graph.exists if circuit is None else circuit.mask(graph)
    order = None if scores is None else edge_effects(graph, scores).abs()
    whole = run_pair(model, clean, corrupted, classes, baseline_classes, metric, "denoise")
    settings = {
        **whole.settings,
        "method": "sequential",
        "max_change": max_change,
        "metric": ", ".join(whole.measures.metrics),
        "n_edges": int(given.sum()),
        "ordered": "by scores" if order is not None else "by place",
        "gap": _gap(whole),
        "architecture": architecture(graph),
    }
    tested = _Tested.make(graph, given, resume, settings)
    _remove_one_by_one(tested, whole, order, max_change, batch_size, progress)
    kept = prune(graph, tested.kept)
    if not kept.any():
        raise InputError(
            f"no edge is needed: without any the metric changes by less than max_change={max_change} at a time; take less"
        )
    found = {f"{graph.writers[w]}->{graph.readers[r]}": tested.rises[w, r].item() for w, r in kept.nonzero().tolist()}
    return Circuit(frozenset(found), model.cfg.model_name, found, settings)


@dataclass(frozen=True)
class _Tested:
    """The edges that are left, and how far Δ rose without each edge when it was tested: NaN before."""

    graph: Graph
    kept: Bool[Tensor, "writer reader"]
    rises: Float[Tensor, "writer reader"]

    @classmethod
    def make(
        cls, graph: Graph, given: Bool[Tensor, "writer reader"], resume: Circuit | None, settings: dict[str, Any]
    ) -> "_Tested":
        if resume is None:
            return cls(graph, given.clone(), torch.where(given, torch.nan, 0.0).double())
        theirs = resume.settings
        if {**theirs, "gap": 0} != {**settings, "gap": 0} or not isclose(theirs["gap"], settings["gap"], rel_tol=1e-4):
            raise InputError("the circuit to resume is the result of another call: leave resume= out")
        kept = resume.mask(graph)
        rises = torch.zeros(kept.shape, dtype=torch.float64)
        # As a circuit's edges are sorted by name, and a mask's by place.
        for edge, rise in zip(resume.axes["edge"], resume.values.tolist(), strict=True):
            writer, reader = edge.split("->")
            rises[graph.writer_index[writer], graph.reader_index[reader]] = rise
        return cls(graph, kept, rises)

    def waiting(self, order: Float[Tensor, "writer reader"] | None) -> list[Edge]:
        """The edges that were not tested, from the logits back to the input."""
        edges = []
        for reader in reversed(range(len(self.graph.readers))):
            writers = self.rises[:, reader].isnan().nonzero()[:, 0].flip(0)
            if order is not None:
                writers = writers[order[writers, reader].argsort(stable=True)]
            edges += [(writer, reader) for writer in writers.tolist()]
        return edges


@dataclass(frozen=True)
class _Trial:
    """A test: the place of an edge among those that wait, and what is kept without it and without all before it."""

    place: int
    kept: Bool[Tensor, "writer reader"]


def _trials(graph: Graph, kept: Bool[Tensor, "writer reader"], waiting: list[Edge]) -> Iterator[_Trial]:
    """The next tests; edges into parts that write along none of the edges kept need none."""
    owners = reader_nodes(graph).tolist()
    kept = kept.clone()
    for place, (writer, reader) in enumerate(waiting):
        writes = owners[reader] == len(graph.writers) or bool(kept[owners[reader]].any())
        kept[writer, reader] = False
        if writes:
            yield _Trial(place, kept.clone())


@dataclass(frozen=True)
class _Delta:
    """Δ of sets of edges; see `prune_circuit`."""

    pairs: list[EdgePair]
    whole: WholeRuns
    at_once: int

    @classmethod
    def make(cls, graph: Graph, whole: WholeRuns, batch_size: int | None) -> "_Delta":
        rows = edge_rows(graph, whole.source, batch_size)
        per_chunk = min(rows, len(whole.source))
        chunks = zip(whole.source.split(per_chunk), whole.target.split(per_chunk), strict=True)
        return cls([EdgePair.make(graph, *chunk) for chunk in chunks], whole, max(1, rows // per_chunk))

    def __call__(self, kept: list[Bool[Tensor, "writer reader"]]) -> list[float]:
        runs = torch.stack(kept)
        logits = torch.cat(
            [torch.cat([pair.run(some) for some in runs.split(self.at_once)]) for pair in self.pairs], dim=1
        )
        return [self._of(of_run, run) for of_run, run in zip(logits, runs, strict=True)]

    def _of(self, logits: Float[Tensor, "image classes"], run: Bool[Tensor, "writer reader"]) -> float:
        found = self.whole.measures(logits, f"the circuit of {int(run.sum())} edges")[0]
        return (found - self.whole.found["source"][0]).abs().mean().item() / _gap(self.whole)


def _gap(whole: WholeRuns) -> float:
    """How far the metric is on the corrupted pictures from that on the clean ones, mean over pictures."""
    return (whole.found["source"][0] - whole.found["target"][0]).abs().mean().item()


def _remove_one_by_one(
    tested: _Tested,
    whole: WholeRuns,
    order: Float[Tensor, "writer reader"] | None,
    max_change: float,
    batch_size: int | None,
    progress: bool | None,
) -> None:
    """Tests several edges at once, each as if all before it were removed.

    Most are, and up to the first that is not, these runs are those of one test after the other. The others are of no use, so
    the next batch is smaller; it doubles whenever all edges of a batch were removed.
    """
    graph, kept, rises = tested.graph, tested.kept, tested.rises
    waiting = tested.waiting(order)
    size = 1
    with (
        torch.no_grad(),
        Interrupts(rises[None]) as interrupts,
        ProgressBar(len(waiting), "pruning edges", "edge", progress, len(waiting)) as bar,
    ):
        delta = _Delta.make(graph, whole, batch_size)
        (now,) = delta([kept])
        while waiting and not interrupts.asked:
            trials = list(islice(_trials(graph, kept, waiting), size))
            values = [now, *(delta([trial.kept for trial in trials]) if trials else [])]
            rise = [after - before for before, after in pairwise(values)]
            needed = next((i for i, one in enumerate(rise) if one >= max_change), None)
            n_valid = len(trials) if needed is None else needed + 1
            n_done = trials[n_valid - 1].place + 1 if trials else len(waiting)
            for writer, reader in waiting[:n_done]:
                kept[writer, reader], rises[writer, reader] = False, 0
            for trial, one in zip(trials[:n_valid], rise, strict=False):
                rises[waiting[trial.place]] = one
            if needed is not None:
                kept[waiting[n_done - 1]] = True
            now = values[n_valid if needed is None else needed]
            size = min(2 * size, delta.at_once) if needed is None else max(1, needed)
            waiting = waiting[n_done:]
            bar.update(n_done)
