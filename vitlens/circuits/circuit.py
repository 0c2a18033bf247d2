"""Finds circuits, sets of edges of a model's graph, from the scores of edges."""

import heapq
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked, is_whole, short
from vitlens.errors import InputError, nearest
from vitlens.files import write_whole
from vitlens.model.graph import Graph, Node
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.patching.results import Patching, require_axes
from vitlens.results.result import Result

CIRCUIT_METHODS = ("threshold", "greedy")
_EDGE = re.compile(r"(input|L\d+H\d+|L\d+ mlp)->(L\d+H\d+<[qkv]>|L\d+ mlp|logits)")


@dataclass(frozen=True, repr=False, eq=False, init=False)
class Circuit(Result):
    """A set of edges with names such as "L0H2->L3H1<v>". `values` [edge] are their signed effects, NaN if unknown.

    `save` and `load_result` work as for every result; `to_json` and `from_json` are for circuits that people write by hand.

    Args:
        edges: the names of the edges.
        model_name: the name of the model.
        scores: the effect of each edge, if known.
        settings: how the circuit was found.

    Raises:
        InputError: something that is no name of an edge.
    """

    def __init__(
        self,
        edges: Collection[str],
        model_name: str,
        scores: dict[str, float] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(edges, (frozenset, set, list, tuple)):
            raise InputError(f"the edges of a circuit are a set of their names, not {short(edges)}")
        for edge in edges:
            parse_edge(edge)
        named = sorted(set(edges))
        if scores is not None and not (isinstance(scores, dict) and set(scores) <= set(named)):
            raise InputError("the scores of a circuit are a dictionary from the names of its edges to numbers")
        values = torch.tensor([(scores or {}).get(edge, torch.nan) for edge in named], dtype=torch.float64)
        super().__init__(values, {"edge": named}, "score", settings={**(settings or {}), "model": model_name})

    @property
    def edges(self) -> frozenset[str]:
        return frozenset(self.axes["edge"])

    @property
    def model_name(self) -> str:
        return str(self.settings["model"])

    @property
    def scores(self) -> dict[str, float] | None:
        """By edge; None where there are none."""
        named = zip(self.axes["edge"], self.values.tolist(), strict=True)
        return {edge: score for edge, score in named if not math.isnan(score)} or None

    def content(self) -> dict[str, Any]:
        about = {name: value for name, value in self.settings.items() if name != "model"}
        return {"edges": self.axes["edge"], "model_name": self.model_name, "scores": self.scores, "settings": about}

    @property
    def nodes(self) -> list[str]:
        """The nodes that the edges connect, from "input" to "logits"; a head counts once for its three inputs."""
        ends = {node.owner for edge in self.edges for node in parse_edge(edge)}
        last = {"input": -1, "logits": 1}
        order = sorted(ends, key=lambda node: (last.get(node.kind, 0), node.block, node.kind == "mlp", node.head))
        return [str(node) for node in order]

    def mask(self, graph: Graph) -> Bool[Tensor, "writer reader"]:
        """Which of the graph's edges are in the circuit, as `run_edges` takes them.

        Raises:
            InputError: the circuit is of another architecture.
        """
        mine, theirs = self.settings.get("architecture"), architecture(graph)
        if mine is not None and mine != theirs:
            raise InputError(
                f"the circuit is one of {_in_words(mine)}: {graph.model.cfg.model_name} has {_in_words(theirs)}"
            )
        known = set(graph.edges())
        missing = sorted(self.edges - known)
        if missing:
            raise InputError(
                f"{graph.model.cfg.model_name} has no edge {missing[0]!r}, which the circuit of {self.model_name} names "
                f"({len(missing)} of its {len(self)} edges are missing); the nearest names are "
                f"{nearest(missing[0], sorted(known))}"
            )
        kept = torch.zeros_like(graph.exists)
        for edge in self.edges:
            writer, reader = edge.split("->")
            kept[graph.writer_index[writer], graph.reader_index[reader]] = True
        return kept

    def to_json(self, path: str | Path) -> None:
        """Writes edges, scores and settings as readable JSON."""
        write_whole(path, (json.dumps(self.content(), indent=1) + "\n").encode())

    @classmethod
    @checked
    def from_json(cls, path: str | Path) -> "Circuit":
        """Reads what `to_json` wrote, or a file made by hand: "model_name" and "edges" are enough.

        Raises:
            InputError: there is no such file, or it holds no circuit.
        """
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a circuit: {error}") from error
        try:
            scores = content.get("scores")
            if not isinstance(content["edges"], list) or not isinstance(content["model_name"], str):
                raise TypeError
            return cls(
                frozenset(str(edge) for edge in content["edges"]),
                content["model_name"],
                None if scores is None else {str(edge): float(score) for edge, score in scores.items()},
                dict(content.get("settings") or {}),
            )
        except InputError as error:
            raise InputError(f"{path} holds no circuit: {error}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'{path} holds no circuit: it needs "model_name", a list "edges", and, where there are any, "scores" as '
                "{edge: number}"
            ) from error

    def __len__(self) -> int:
        return len(self.edges)

    def __eq__(self, other: object) -> bool:
        """The same edges of the same model, however they were found."""
        if not isinstance(other, Circuit):
            return NotImplemented
        return (self.edges, self.model_name) == (other.edges, other.model_name)

    def __hash__(self) -> int:
        return hash((self.edges, self.model_name))

    def __contains__(self, edge: object) -> bool:
        return edge in self.edges

    def __repr__(self) -> str:
        return f"Circuit({self.model_name}: {len(self)} edges between {len(self.nodes)} nodes)"


@leaves_state
@checked
def find_circuit(
    model: HookedViT,
    scores: Patching,
    *,
    n_edges: int | None = None,
    min_score: float | None = None,
    method: str = "threshold",
    signed: bool = False,
) -> Circuit:
    """Keeps the edges with the highest scores, and removes those that lie on no path from the input to the logits.

    Args:
        scores: of every edge: `path_patching(…, receivers=None)` or `edge_attribution_patching`.
        n_edges: how many edges to take, before those on no path are removed; or
        min_score: take all edges with at least this score.
        method: "threshold": the best edges anywhere; "greedy": starting at the logits, always the best edge into a node
            that is already in the circuit, so that every edge leads to the logits.
        signed: rank edges by their signed effect; by default by its magnitude, so that edges against the clean class count
            too.

    Raises:
        InputError: neither or both of n_edges and min_score; more edges than there are; scores of other edges, of several
            metrics, or not complete; nothing is left.

    Source: Hanna et al. 2024 (Have Faith in Faithfulness; both ways, and the pruning); Conmy et al. 2023.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> scores = vitlens.patching.edge_attribution_patching(model, images[4:5], images[5:6])
        >>> circuit = vitlens.find_circuit(model, scores, n_edges=20, method="greedy")
        >>> circuit
        Circuit(fashion_in_context_vit: 17 edges between 8 nodes)
        >>> circuit.nodes[0], circuit.nodes[-1]
        ('input', 'logits')
    """
    if (n_edges is None) == (min_score is None):
        raise InputError("pass either n_edges= or min_score=: how many edges the circuit takes, or from which score on")
    graph = Graph(model)
    effect = edge_effects(graph, scores)
    rank = effect if signed else effect.abs()
    ranked = rank_edges(graph, rank, method)
    if n_edges is not None:
        check_size(graph, n_edges, "n_edges")
    least = -torch.inf if min_score is None else min_score
    chosen = list(islice(takewhile(lambda edge: rank[edge] >= least, ranked), n_edges))
    if not chosen:
        first = rank[next(rank_edges(graph, rank, method))].item()
        raise InputError(f"no edge reaches min_score={min_score}: the first to take scores {first:.3g}")
    kept = prune(graph, as_mask(graph, chosen))
    if not kept.any():
        raise InputError(
            f"none of the {len(chosen)} best edges lies on a path from the input to the logits: take more of them"
            + ("" if method == "greedy" else ', or method="greedy", which connects them to the logits')
        )
    settings = {
        "method": method,
        "n_edges": n_edges,
        "min_score": min_score,
        "signed": signed,
        "metric": scores.metric_name,
        "scores": scores.settings,
        "architecture": architecture(graph),
    }
    found = {f"{graph.writers[w]}->{graph.readers[r]}": effect[w, r].item() for w, r in kept.nonzero().tolist()}
    return Circuit(frozenset(found), model.cfg.model_name, found, settings)


def edge_effects(graph: Graph, scores: Patching) -> Float[Tensor, "writer reader"]:
    """The effect of every edge over all pictures, on the CPU.

    Raises:
        InputError: scores of other edges, of several metrics, or not complete.
    """
    extra = [axis for axis in scores.axes if axis not in ("sender", "receiver", "image")]
    if not {"sender", "receiver"} <= set(scores.axes):
        raise InputError(
            f"a circuit is found from scores of edges, with the axes sender and receiver, not {', '.join(scores.axes)}: "
            "path_patching(…, receivers=None) makes them"
        )
    if extra:
        require_axes(scores, "sender", "receiver")
    if scores.axes["sender"] != list(graph.writer_index) or scores.axes["receiver"] != list(graph.reader_index):
        raise InputError(
            f"the scores are not of all edges of {graph.model.cfg.model_name}: make them with "
            "path_patching(…, receivers=None)"
        )
    if not scores.complete:
        raise InputError(
            "the sweep of the scores was interrupted, so some edges have none: finish it with resume=scores"
        )
    return scores.effect().detach().cpu().double()


def rank_edges(graph: Graph, scores: Float[Tensor, "writer reader"], method: str) -> Iterator[tuple[int, int]]:
    """Edges, as (writer index, reader index), in the order in which a growing circuit adds them.

    Raises:
        InputError: an unknown method.
    """
    if method not in CIRCUIT_METHODS:
        raise InputError(f"a circuit is found by one of {', '.join(CIRCUIT_METHODS)}, not {method!r}")
    return _by_score(graph, scores) if method == "threshold" else _from_logits(graph, scores)


def _by_score(graph: Graph, scores: Float[Tensor, "writer reader"]) -> Iterator[tuple[int, int]]:
    places = graph.exists.nonzero()
    order = scores[graph.exists].argsort(descending=True, stable=True)
    yield from ((w, r) for w, r in places[order].tolist())


def _from_logits(graph: Graph, scores: Float[Tensor, "writer reader"]) -> Iterator[tuple[int, int]]:
    owners, table = reader_nodes(graph).tolist(), scores.tolist()
    logits = len(graph.writers)
    readers_of: list[list[int]] = [[] for _ in range(logits + 1)]
    for reader, owner in enumerate(owners):
        readers_of[owner].append(reader)
    waiting: list[tuple[float, int, int]] = []
    there: set[int] = set()

    def join(node: int) -> None:
        there.add(node)
        for reader in readers_of[node]:
            for writer in range(graph.n_before(graph.readers[reader])):
                heapq.heappush(waiting, (-table[writer][reader], writer, reader))

    join(logits)
    while waiting:
        _, writer, reader = heapq.heappop(waiting)
        yield writer, reader
        if writer not in there:
            join(writer)


def reader_nodes(graph: Graph) -> Tensor:
    """For every reader the index, among the writers, of the node that it belongs to; logits come after all writers."""
    return torch.tensor([graph.writer_index.get(str(node.owner), len(graph.writers)) for node in graph.readers])


def prune(graph: Graph, kept: Bool[Tensor, "writer reader"]) -> Bool[Tensor, "writer reader"]:
    """The kept edges that lie on a path from the input to the logits; other edges do not change the output.

    A node is on a path if an edge into any of its inputs is. Nodes are sorted as in the network, so one forward pass finds
    the nodes that the input reaches, and one backward pass the nodes that reach the logits.
    """
    kept, owners, logits = kept & graph.exists, reader_nodes(graph), len(graph.writers)
    leads = torch.zeros(logits, logits + 1, dtype=torch.int).index_add_(1, owners, kept.int()) > 0
    reached, useful = torch.zeros(2, logits + 1, dtype=torch.bool)
    reached[0], useful[logits] = True, True
    for node in range(1, logits + 1):
        reached[node] = (leads[:, node] & reached[:logits]).any()
    for node in reversed(range(logits)):
        useful[node] = (leads[node] & useful).any()
    return kept & reached[:logits, None] & useful[owners]


def as_mask(graph: Graph, edges: list[tuple[int, int]]) -> Bool[Tensor, "writer reader"]:
    """The mask of edges given by their indices."""
    kept = torch.zeros_like(graph.exists)
    if edges:
        kept[tuple(torch.tensor(edges).T)] = True
    return kept


def check_size(graph: Graph, size: int, name: str) -> None:
    """Raises InputError unless size is between 1 and the number of edges."""
    n_all = int(graph.exists.sum())
    if not is_whole(size) or not 1 <= size <= n_all:
        raise InputError(f"{name} is between 1 and {n_all}, the number of edges of the model, not {short(size)}")


def architecture(graph: Graph) -> dict[str, Any]:
    """The facts that two models must share for a circuit of one to be a circuit of the other."""
    cfg = graph.model.cfg
    return {"n_layers": cfg.n_layers, "n_heads": cfg.n_heads, "wiring": cfg.wiring}


def _in_words(of: Any) -> str:
    # In a file that was written by hand it may be something else than a dictionary.
    return ", ".join(f"{name} {value}" for name, value in of.items()) if isinstance(of, dict) else str(of)


def parse_edge(edge: str) -> tuple[Node, Node]:
    """The writer and the reader of an edge's name.

    Raises:
        InputError: it is no name of an edge, or the edge runs backwards.
    """
    ends = _EDGE.fullmatch(edge) if isinstance(edge, str) else None
    if ends is None:
        raise InputError(f"{edge!r} is no name of an edge: they look like 'L0H2->L3H1<v>' or 'L2 mlp->logits'")
    writer, reader = Node.of(ends[1]), Node.of(ends[2])
    # In every wiring a head reads earlier blocks only; an MLP may also read the heads of its own block.
    is_own = reader.kind == "mlp" and writer.kind == "head" and writer.block == reader.block
    if reader.kind != "logits" and writer.block >= reader.block and not is_own:
        raise InputError(f"the edge {edge!r} runs backwards: {writer} writes after {reader} has read")
    return writer, reader
