"""How much of each edge of an attribution graph went through which head."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked, short
from vitlens.circuits.graphs.graph import NO_NODES, AttributionGraph
from vitlens.circuits.graphs.graph_run import GraphRun, run_of_graph
from vitlens.circuits.graphs.influence import influence_on_logits
from vitlens.circuits.graphs.replacement import Transcoders
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.results.axes import ComponentLabel, NodeLabel, head_label
from vitlens.results.frames import Frame
from vitlens.results.result import Result

#: Sources of one pass forward, and the numbers that their parts of the stream may take.
SOURCES_AT_ONCE, NUMBERS_AT_ONCE = 32, 2**26
EdgeChoice: TypeAlias = pd.DataFrame | Sequence[tuple[str, str]] | None


@dataclass(frozen=True, repr=False)
class EdgeHeads(Result):
    """`values` [edge, head]: how much of each edge came to the target's token through each head.

    Every path from source to target is counted at the last head that it passes, and under "no head" where it stays at its
    token. A row sums to the edge's effect, `effects` [edge]. `sources` and `targets` are the nodes of each edge.
    """

    effects: Float[Tensor, "edge"]
    sources: list[NodeLabel]
    targets: list[NodeLabel]

    def heads(self) -> pd.DataFrame:
        """For each head, the largest share first: "effect", the sum of its part of all edges, "magnitude", the sum of their
        magnitudes, and "share", that of all heads' magnitudes and "no head"'s."""
        magnitudes = self.values.abs().double().sum(dim=0)
        frame = Frame(
            {
                "head": self.axes["head"],
                "effect": self.values.double().sum(dim=0).cpu().numpy(),
                "magnitude": magnitudes.cpu().numpy(),
                "share": (magnitudes / magnitudes.sum().clamp_min(torch.finfo(magnitudes.dtype).tiny)).cpu().numpy(),
            }
        )
        return frame.sort_values("magnitude", ascending=False, kind="stable", ignore_index=True)


@leaves_state
@checked
@gradients_disabled()
def edge_heads(
    model: HookedViT,
    images: Pictures,
    graph: AttributionGraph,
    *,
    transcoders: Transcoders = None,
    edges: EdgeChoice = None,
    n_edges: int = 1000,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> EdgeHeads:
    """Through which heads the edges of an attribution graph lead.

    An edge is a sum over all frozen paths of heads from its source to its target. Each path is counted at the last head
    that it passes, which is the one that brings it to the target's token:

        loading[edge, head] = Σ_t ⟨what of the source multiplies W_O of the head at token t, ∂target/∂(that)⟩

    The gradient is the direct one, without later heads, and so the loadings of all heads and of the paths that stay at
    their token ("no head") sum to the edge. Frozen is what is frozen in the graph; where a norm over all heads follows the
    mixing of values, a head's part is what the norm writes in its place.

    Args:
        images: the graph's picture.
        graph: from `attribution_graph`, whole or pruned.
        transcoders: those that the graph was made with.
        edges: rows of `graph.edges`, or pairs (source, target) of its nodes. None: the `n_edges` that most of the
            influence on the logits goes through.
        batch_size: sources of a pass forward; by default 32, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        EdgeHeads with axes edge, head; the strongest edge first.

    Raises:
        InputError: the graph is of another picture, model or dictionary, or has groups of nodes; an edge that it does not
            have; several pictures.

    Source: Ameisen et al. 2025 (Circuit Tracing), appendix on attention; Kamath et al. 2025 (Tracing Attention
    Computation), head loadings.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> transcoders = vitlens.demo.load_demo_transcoders()
        >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
        >>> heads = vitlens.circuits.edge_heads(model, images[4:5], graph, transcoders=transcoders)
        >>> heads.heads()["head"][:3].tolist()
        ['no head', 'L5H1', 'L0H1']
        >>> (heads.values.sum(dim=1) - heads.effects).abs().max() < 1e-3
        tensor(True)
    """
    check_count(n_edges, "n_edges")
    of = run_of_graph(model, images, graph, transcoders)
    rows, columns = _places(graph, edges, n_edges)
    wanted = sorted(columns.unique().tolist(), key=lambda i: graph.sources[i].block or -1)
    size = batch_size or max(1, min(SOURCES_AT_ONCE, NUMBERS_AT_ONCE // (of.run.mlp_out(0).numel() * _n_written(of))))
    reading = _Reading(of, sorted(rows.unique().tolist()), size)
    values = of.run.mlp_out(0).new_zeros(len(rows), reading.n_heads + 1)
    with ProgressBar(len(wanted), "head loadings", "source", progress, -(-len(wanted) // size)) as bar:
        for first in range(0, len(wanted), size):
            places = wanted[first : first + size]
            place = torch.full((len(graph.sources),), -1)
            place[places] = torch.arange(len(places))
            mine = (place[columns] >= 0).nonzero()[:, 0]
            for head, loading in reading.loadings(places, place[columns[mine]], rows[mine]):
                values[mine, head] += loading
            bar.update(len(places))
    return _as_result(of, rows, columns, values, reading.labels)


class _Reading:
    """What targets read directly: at which tokens, what of each head and of what is written there."""

    def __init__(self, of: GraphRun, targets: list[int], size: int) -> None:
        self.of, run = of, of.run
        self.labels = [
            *(head_label(b, h) for b, block in enumerate(run.blocks) for h in range(block.block.attn.n_heads)),
            ComponentLabel("no head", "direct"),
        ]
        self.n_heads = len(self.labels) - 1
        labels = of.graph.targets
        logits = [i for i in targets if labels[i].kind == "logit"]
        units = [i for i in targets if labels[i].kind != "logit"]
        self.token = torch.zeros(len(labels), dtype=torch.long)
        self.token[units] = torch.tensor([labels[i].token for i in units], dtype=torch.long)
        self.row = torch.full((len(labels),), -1)
        #: By block the gradients of units at their tokens, and of logits at all tokens: by z and by what is written.
        self.of_z: list[dict[int, Tensor]] = []
        self.of_written: list[dict[int, Tensor]] = []
        self.n_logits = len(logits)
        for group in (logits, units):
            self.row[group] = torch.arange(len(group))
            z, written = self._gradients(group, size)
            self.of_z.append(z)
            self.of_written.append(written)

    def _gradients(self, targets: list[int], size: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        of_z: dict[int, Tensor] = {}
        of_written: dict[int, Tensor] = {}
        for first in range(0, len(targets), size):
            order, reads = self.of.reads(targets[first : first + size])
            for pulled in self.of.run.pull(reads, through_heads=False):
                index, is_logit = pulled.block, bool(len(reads.final))
                tokens = slice(None) if is_logit else self.token[order]
                self._keep(of_written, index, order, self._at(pulled.written_by_mlp, tokens), len(targets))
                if index >= 0:
                    attended = self._at(pulled.written_by_attn, tokens)
                    here = tokens if is_logit else self.token[order[: len(attended)]]
                    gradient = self.of.run.blocks[index].pull_heads(attended, here)
                    self._keep(of_z, index, order, gradient, len(targets))
        return of_z, of_written

    def _at(self, gradient: Tensor, tokens: Tensor | slice) -> Tensor:
        if isinstance(tokens, slice):
            return gradient
        return gradient[torch.arange(len(gradient)), tokens[: len(gradient)]]

    def _keep(self, kept: dict[int, Tensor], block: int, order: list[int], found: Tensor, n: int) -> None:
        if block not in kept:
            kept[block] = found.new_zeros(n, *found.shape[1:])
        kept[block][self.row[order[: len(found)]]] = found

    def loadings(
        self, sources: list[int], source: Int[Tensor, "edge"], target: Int[Tensor, "edge"]
    ) -> Iterator[tuple[int | slice, Float[Tensor, "edge *head"]]]:
        """The loadings of edges block by block: into which columns they go; `source` is the place among `sources`."""
        written = self.of.written([self.of.graph.sources[i] for i in sources])
        for block, rows in written.items():
            yield self.n_heads, self._read(self.of_written, block, rows[:, :, None], source, target)[:, 0]
        for index, stream, _ in self.of.run.push(written):
            z = self.of.run.blocks[index].z(stream)
            first = index * z.shape[2]
            yield slice(first, first + z.shape[2]), self._read(self.of_z, index, z, source, target)

    def _read(
        self,
        gradients: list[dict[int, Tensor]],
        block: int,
        part: Float[Tensor, "source token head d"],
        source: Int[Tensor, "edge"],
        target: Int[Tensor, "edge"],
    ) -> Float[Tensor, "edge head"]:
        found = part.new_zeros(len(source), part.shape[2])
        of_logits, of_units = (by_block.get(block) for by_block in gradients)
        is_logit = torch.tensor([label.kind == "logit" for label in self.of.graph.targets])[target]
        for edge in is_logit.nonzero()[:, 0].tolist():
            if of_logits is None:
                break
            gradient = of_logits[self.row[target[edge]]].reshape(part.shape[1:])
            found[edge] = einsum(part[source[edge]], gradient, "t h e, t h e -> h")
        of_unit = (~is_logit).nonzero()[:, 0]
        at_once = max(1, NUMBERS_AT_ONCE // part[0, 0].numel())
        for edges in of_unit.split(at_once):
            if of_units is None:
                break
            gradient = of_units[self.row[target[edges]]].reshape(len(edges), *part.shape[2:])
            found[edges] = einsum(part[source[edges], self.token[target[edges]]], gradient, "i h e, i h e -> i h")
        return found


def _n_written(of: GraphRun) -> int:
    """In how many blocks one source may write."""
    return max([len(replacement.writes) for replacement in of.replacements], default=1)


def _places(
    graph: AttributionGraph, edges: EdgeChoice, n_edges: int
) -> tuple[Int[Tensor, "edge"], Int[Tensor, "edge"]]:
    """The targets and sources of the chosen edges, as places on the graph's axes."""
    if edges is not None:
        return _given(graph, edges)
    places = {str(label): i for i, label in enumerate(graph.sources)}
    shares = graph.shares()
    columns = torch.tensor([places.get(str(label), -1) for label in graph.targets], device=shares.device)
    through = shares * influence_on_logits(shares, columns)[1][:, None]
    through[:, [i for i, label in enumerate(graph.sources) if label.kind in NO_NODES]] = 0
    best = through.flatten().topk(min(n_edges, int((through > 0).sum()))).indices.cpu()
    return best // shares.shape[1], best % shares.shape[1]


def _given(graph: AttributionGraph, edges: EdgeChoice) -> tuple[Tensor, Tensor]:
    """As `_places`, of edges that the user names.

    Raises:
        InputError: no edges of the graph.
    """
    pairs = _pairs(edges)
    sources = {str(label): i for i, label in enumerate(graph.sources) if label.kind not in NO_NODES}
    targets = {str(label): i for i, label in enumerate(graph.targets)}
    for source, target in pairs:
        if source not in sources or target not in targets:
            raise InputError(f"the graph has no edge from {source} to {target}: pass rows of graph.edges")
    if not pairs:
        raise InputError("edges= names no edge: pass rows of graph.edges")
    return torch.tensor([targets[target] for _, target in pairs]), torch.tensor(
        [sources[source] for source, _ in pairs]
    )


def _pairs(edges: EdgeChoice) -> list[tuple[str, str]]:
    given: list = [None]
    if isinstance(edges, pd.DataFrame):
        if {"source", "target"} <= set(edges.columns):
            there = edges[~edges["source"].isin(NO_NODES)]
            given = list(zip(there["source"], there["target"], strict=True))
    elif isinstance(edges, Iterable) and not isinstance(edges, str):
        given = list(edges)
    for pair in given:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(end, str) for end in pair):
            raise InputError(
                f"edges= are rows of graph.edges, or pairs (source, target) of the names of nodes, not {short(edges)}"
            )
    return [(source, target) for source, target in given]


def _as_result(
    of: GraphRun, rows: Tensor, columns: Tensor, values: Float[Tensor, "edge head"], heads: list[ComponentLabel]
) -> EdgeHeads:
    graph = of.graph
    effects = graph.values[rows, columns].to(values)
    strongest = effects.abs().argsort(descending=True, stable=True)
    sources = [graph.sources[i] for i in columns[strongest].tolist()]
    targets = [graph.targets[i] for i in rows[strongest].tolist()]
    names = [f"{source} → {target}" for source, target in zip(sources, targets, strict=True)]
    return EdgeHeads(
        values[strongest],
        {"edge": names, "head": heads},
        "loading",
        effects=effects[strongest],
        sources=sources,
        targets=targets,
        classes=graph.classes,
        class_names=graph.class_names,
        pixels=graph.pixels,
        settings=graph.settings,
    )
