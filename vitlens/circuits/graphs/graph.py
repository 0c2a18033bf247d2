"""The attribution graph of one picture: what it is as a result."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import check_count, checked, short
from vitlens.circuits.graphs.circuit_tracer_json import read_graph, write_graph
from vitlens.circuits.graphs.influence import influence_on_logits
from vitlens.circuits.graphs.pruning import influential
from vitlens.circuits.graphs.supernodes import Supernodes, alike, flattened, merged, read_supernodes
from vitlens.errors import InputError, nearest
from vitlens.results.axes import NodeLabel, TokenLabel
from vitlens.results.frames import Frame
from vitlens.results.result import Result

#: Kinds of nodes that are active units.
UNIT_KINDS = ("feature", "neuron", "group")
#: Sources that complete the sums and are no nodes of the picture's graph.
NO_NODES = ("constant", "rest")
#: Kinds of nodes that enter the first block: what a token shows, and where it stands.
EMBEDDINGS = ("embed", "pos_embed", "embed_norm")


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """`values` [target, source]: the direct linear effect of each source on each target, in one picture's frozen run.

    Targets are logits (or differences of logits), and units: features or neurons of a block at a token. Sources are units,
    what MLPs write that the units do not ("error"), the embedding and position of each token, "constant" (all biases on the
    way), and "rest" (active units that are no nodes, and what was pruned). A row sums to `totals` [target]: the logit, or
    the unit's pre-activation. `activations` [source] are those of units, NaN of other sources. `left_out` [target] is the
    share of the magnitudes of all edges into a target that are in "rest". `tokens` are the labels of the sequence, and
    `grid` the rows and columns of the patches. `probabilities` [logit] are those of the classes; None where outputs have
    none. `baselines` are the classes that `classes` were compared with; None without.
    """

    totals: Float[Tensor, "target"]
    activations: Float[Tensor, "source"]
    left_out: Float[Tensor, "target"]
    tokens: list[TokenLabel]
    grid: tuple[int, int]
    probabilities: Float[Tensor, "logit"] | None = field(default=None, kw_only=True)
    baselines: Int[Tensor, "image base"] | None = field(default=None, kw_only=True)

    @property
    def targets(self) -> list[NodeLabel]:
        """The nodes that have edges into them: logits and units."""
        return self.axes["target"]

    @property
    def sources(self) -> list[NodeLabel]:
        """Everything that an edge may come from."""
        return self.axes["source"]

    @property
    def nodes(self) -> list[NodeLabel]:
        """All nodes: logits, units, errors, embeddings; not the constant and the rest, which only complete the sums."""
        logits = [label for label in self.targets if label.kind == "logit"]
        return [*logits, *(label for label in self.sources if label.kind not in NO_NODES)]

    @property
    def units(self) -> list[NodeLabel]:
        """The features or neurons among the nodes."""
        return [label for label in self.sources if label.kind in UNIT_KINDS]

    @property
    def edges(self) -> pd.DataFrame:
        """One row for each edge that is not 0: "source", "target", "effect", and "share".

        The share is of the magnitudes of all edges into the target, its rest included and its constant not.
        """
        rows, columns = (self.values != 0).nonzero(as_tuple=True)
        shares = self.shares()
        return Frame(
            {
                "source": [self.sources[i] for i in columns.tolist()],
                "target": [self.targets[i] for i in rows.tolist()],
                "effect": self.values[rows, columns].cpu().numpy(),
                "share": shares[rows, columns].cpu().numpy(),
            }
        )

    def shares(self) -> Float[Tensor, "target source"]:
        """Magnitudes of edges over their sum at each target; 0 for the constant, and from a supernode to itself."""
        magnitudes = self._magnitudes()
        rest = self._column("rest")
        # Of the rest, magnitudes and not their signed sum count: `left_out` is their share.
        magnitudes[:, rest] = 0
        left_out = self.left_out.double()
        known = magnitudes.sum(dim=1, keepdim=True).clamp_min(torch.finfo(magnitudes.dtype).tiny)
        shares = magnitudes / known * (1 - left_out[:, None])
        shares[:, rest] = left_out
        return shares

    def influence(self) -> Float[Tensor, "source"]:
        """How much of the logits goes through each source, along all paths, by the shares of the edges on them.

        The logits share an influence of 1. Each target hands its influence on to its sources, by their shares of the
        magnitudes of its edges, and a source sums what its targets hand on:

            influence = w (A + A² + A³ + …),  A the shares, w = 1 / (number of logits) at each logit

        The rest has an influence as the nodes have; the constant has none, for it is no node.

        Source: Ameisen et al. 2025, appendix on pruning; circuit-tracer weights several logits by their probabilities.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> transcoders = vitlens.demo.load_demo_transcoders()
            >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
            >>> graph.influence().shape
            torch.Size([1628])
        """
        return influence_on_logits(self.shares(), self._columns)[0]

    def replacement_score(self) -> float:
        """The share of the influence that ends at embeddings, and not at errors or the rest: 1 where features explain all.

        Every path from the logits back ends at an embedding, an error or the rest. Positions count as embeddings do. The
        rest counts as an error, so that more nodes raise the score; and pruning, which moves nodes to the rest, lowers it.

        Raises:
            InputError: the graph has supernodes.

        Source: Ameisen et al. 2025, graph replacement score (where a graph has no rest).
        """
        self._require_single_nodes()
        influence = self.influence()
        explained = influence[self._of_kind(*EMBEDDINGS)].sum()
        return (explained / (explained + influence[self._of_kind("error", "rest")].sum())).item()

    def completeness_score(self) -> float:
        """The share of the edges into nodes that come from units and embeddings, and not from errors or the rest.

        The mean over targets, weighted by their influence, of the shares of their sources that are units or embeddings:
        partial credit for nodes that are explained in part. Nodes without edges into them do not count.

        Raises:
            InputError: the graph has supernodes.

        Source: Ameisen et al. 2025, graph completeness score; circuit-tracer counts errors and embeddings among the targets.
        """
        self._require_single_nodes()
        shares = self.shares()
        weights = influence_on_logits(shares, self._columns)[1]
        return (
            weights @ shares[:, ~self._of_kind("error", *NO_NODES)].sum(dim=1) / (weights @ shares.sum(dim=1))
        ).item()

    @checked
    def top(self, k: int = 10) -> pd.DataFrame:
        """The k nodes with the greatest influence on the logits: "node", "influence", and the "activation" of units.

        Raises:
            InputError: k is no count.
        """
        check_count(k, "k")
        influence = self.influence()
        influence[self._of_kind(*NO_NODES)] = -1
        best = influence.argsort(descending=True, stable=True)[: min(k, len(influence) - len(NO_NODES))].tolist()
        return Frame(
            {
                "node": [self.sources[i] for i in best],
                "influence": influence[best].cpu().numpy(),
                "activation": self.activations[best].cpu().numpy(),
            }
        )

    @checked
    def edges_into(self, node: str, k: int = 10) -> pd.DataFrame:
        """The k strongest edges into a node, the constant and the rest among them: "source", "effect" and "share".

        Raises:
            InputError: no such node, or one that nothing leads to.
        """
        row = self._place(node, self.targets, "nothing leads to it: edges lead to logits and units")
        return _strongest("source", self.sources, self.values[row], self.shares()[row], k)

    @checked
    def edges_from(self, node: str, k: int = 10) -> pd.DataFrame:
        """The k strongest edges from a node: "target", "effect" and "share" of what leads to the target.

        Raises:
            InputError: no such node, or a logit.
        """
        column = self._place(node, self.sources, "nothing leads from it: it is a logit")
        return _strongest("target", self.targets, self.values[:, column], self.shares()[:, column], k)

    @checked
    def prune(self, *, node_share: float = 0.8, edge_share: float = 0.98) -> "AttributionGraph":
        """The graph of the nodes and edges that most of the influence goes through; all else moves to the rest.

        First the fewest nodes are kept that have `node_share` of the influence of all nodes; embeddings stay. Then, among
        these alone, the fewest edges that have `edge_share` of the influence of all edges: that of an edge is its share of
        the target times the target's influence. Nodes without an edge left, and units that nothing leads to, go too. Rows
        still sum to `totals`, and `left_out` says how much of each is in the rest.

        Raises:
            InputError: a share that is not above 0 and at most 1.

        Source: Ameisen et al. 2025, appendix on pruning; the defaults are theirs.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> transcoders = vitlens.demo.load_demo_transcoders()
            >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
            >>> small = graph.prune(node_share=0.5, edge_share=0.8)
            >>> len(small.nodes) < len(graph.nodes)
            True
        """
        for name, share in (("node_share", node_share), ("edge_share", edge_share)):
            if not 0 < share <= 1:
                raise InputError(f"{name}= is a share, above 0 and at most 1, not {short(share)}")
        shares = self.shares()
        is_node = ~self._of_kind(*NO_NODES)
        kept = influential(shares, self._columns, is_node, self._of_kind(*EMBEDDINGS), node_share, edge_share)
        gone = ~kept.edges & is_node
        rest, values = self._column("rest"), self.values.clone()
        values[:, rest] += self.values.where(gone, 0).sum(dim=1)
        values[gone] = 0
        left_out = self.left_out + shares.where(gone, 0).sum(dim=1).to(self.left_out)
        targets, sources = kept.targets.nonzero()[:, 0].tolist(), kept.sources.nonzero()[:, 0].tolist()
        return replace(
            self,
            values=values[targets][:, sources],
            axes={"target": [self.targets[i] for i in targets], "source": [self.sources[i] for i in sources]},
            totals=self.totals[targets],
            activations=self.activations[sources],
            left_out=left_out[targets].clamp_max(1),
            settings={**self.settings, "node_share": node_share, "edge_share": edge_share},
        )

    @checked
    def group(self, supernodes: Supernodes) -> "AttributionGraph":
        """The graph with several nodes read as one: effects are summed over the members, from them and into them.

        Rows still sum to `totals`, which are sums over the members too. What members say to each other is an edge from the
        supernode to itself. Effects of opposite signs cancel, so influence and scores are best read before.

        Args:
            supernodes: by the name of each the names of its nodes, as `propose_supernodes` returns them.

        Raises:
            InputError: a node that the graph does not have, a logit, a node in two supernodes; a name that a node has.

        Source: Ameisen et al. 2025, supernodes.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> transcoders = vitlens.demo.load_demo_transcoders()
            >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
            >>> grouped = graph.group({"the picture": [node for node in graph.nodes if node.kind == "embed"]})
            >>> grouped
            AttributionGraph(effect [target 51, source 1432], -11.8 to 7.82)
        """
        members = read_supernodes(supernodes, self.nodes)
        targets, from_targets = merged(self.targets, members)
        sources, from_sources = merged(self.sources, members)
        from_targets, from_sources = from_targets.to(self.values), from_sources.to(self.values)
        values = from_targets @ self.values @ from_sources.T
        # By what is known of each row, its left-out magnitudes; those of a merged row are their sum.
        known = self._magnitudes()[:, ~self._of_kind("rest")].sum(dim=1)
        left_out = self.left_out.double()
        hidden = torch.where(
            left_out < 1, known * left_out / (1 - left_out), self.values[:, self._column("rest")].abs()
        )
        single = from_sources.sum(dim=1) == 1
        activations = torch.where(single, from_sources @ self.activations.nan_to_num(), torch.nan)
        activations[single] = self.activations[from_sources[single].argmax(dim=1)]
        grouped = replace(
            self,
            values=values,
            axes={"target": targets, "source": sources},
            totals=from_targets @ self.totals,
            activations=activations,
            left_out=self.left_out.new_zeros(len(targets)),
            settings={**self.settings, "supernodes": flattened(members, self.settings.get("supernodes", {}), sources)},
        )
        hidden = from_targets.double() @ hidden
        known = grouped._magnitudes()[:, ~grouped._of_kind("rest")].sum(dim=1)
        return replace(
            grouped, left_out=(hidden / (hidden + known).clamp_min(torch.finfo(known.dtype).tiny)).to(self.left_out)
        )

    @checked
    def propose_supernodes(self, method: str = "both", *, min_similarity: float = 0.7) -> dict[str, list[str]]:
        """Groups of units with something in common, for `group`: the most influential group first.

        Units are clustered by the cosine similarity of their edges, until no two clusters are as similar on average as
        `min_similarity`; clusters of one are no supernodes.

        Args:
            method: what members have in common: "input" (the edges into them), "output" (the edges from them, as shares of
                the targets), "both"; or "feature": they are one feature at several tokens.
            min_similarity: a cosine; "feature" needs none.

        Raises:
            InputError: an unknown method; a similarity that is no cosine.

        Examples:
            >>> import vitlens
            >>> model, images, labels, masks = vitlens.load_demo()
            >>> transcoders = vitlens.demo.load_demo_transcoders()
            >>> graph = vitlens.attribution_graph(model, images[4:5], "T-shirt", transcoders=transcoders, n_nodes=50)
            >>> grouped = graph.group(graph.propose_supernodes("feature"))
        """
        columns = {label: i for i, label in enumerate(self.sources)}
        units = [label for label in self.targets if label.kind in UNIT_KINDS]
        places = [columns[label] for label in units]
        nodes = ~self._of_kind(*NO_NODES)
        signed = self.shares() * self.values.sign()
        inputs = self.values[self._columns >= 0][:, nodes].double()
        return alike(units, inputs, signed[:, places].T, self.influence()[places], method, min_similarity)

    @checked
    def to_json(self, path: str | Path, *, supernodes: Supernodes | None = None) -> None:
        """Writes circuit-tracer's JSON, which its viewer opens: nodes, links, and supernodes, whose members are pinned.

        Args:
            supernodes: as `group` takes them; by default those that `from_json` found.

        Raises:
            InputError: nodes are merged already; supernodes that the graph cannot have; the file cannot be written.
        """
        write_graph(self, path, self.settings.get("supernodes") if supernodes is None else supernodes)

    @classmethod
    @checked
    def from_json(cls, path: str | Path) -> "AttributionGraph":
        """Reads what `to_json` wrote, all but the picture; supernodes that were made in the viewer are in its settings.

        Raises:
            InputError: there is no such file, or it holds no graph of vitlens.
        """
        return cls(**read_graph(path))

    @cached_property
    def _columns(self) -> Int[Tensor, "target"]:
        """The place of each target among the sources; −1 of logits."""
        places = {str(label): i for i, label in enumerate(self.sources)}
        columns = [-1 if label.kind == "logit" else places[str(label)] for label in self.targets]
        return torch.tensor(columns, device=self.values.device)

    def _magnitudes(self) -> Float[Tensor, "target source"]:
        """Of all edges between different nodes, and of the rest's signed sum."""
        magnitudes = self.values.abs().double()
        magnitudes[:, self._column("constant")] = 0
        units = (self._columns >= 0).nonzero()[:, 0]
        magnitudes[units, self._columns[units]] = 0
        return magnitudes

    def _of_kind(self, *kinds: str) -> Bool[Tensor, "source"]:
        return torch.tensor([label.kind in kinds for label in self.sources], device=self.values.device)

    def _column(self, kind: str) -> int:
        return next(i for i, label in enumerate(self.sources) if label.kind == kind)

    def _place(self, node: str, labels: list[NodeLabel], otherwise: str) -> int:
        known = [str(label) for label in (*self.targets, *self.sources)]
        if node not in known:
            raise InputError(f"the graph has no node {node!r}; the nearest names are {nearest(node, known)}")
        if node not in labels:
            raise InputError(f"{node!r} is a node, but {otherwise}")
        return [str(label) for label in labels].index(node)

    def _require_single_nodes(self) -> None:
        if any(label.kind == "group" for label in self.sources):
            raise InputError(
                "errors and embeddings may be in supernodes: read the scores of the graph from before group()"
            )


def _strongest(
    name: str, labels: list[NodeLabel], effects: Float[Tensor, "edge"], shares: Float[Tensor, "edge"], k: int
) -> pd.DataFrame:
    """The k strongest of these edges, which are those to or from one node."""
    check_count(k, "k")
    best = effects.abs().argsort(descending=True, stable=True)[:k]
    best = best[effects[best] != 0]
    ends = [labels[i] for i in best.tolist()]
    return Frame({name: ends, "effect": effects[best].cpu().numpy(), "share": shares[best].cpu().numpy()})
