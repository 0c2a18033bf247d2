"""Which edges of a graph the page holds, and how much of the logits' influence goes through each node."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.circuits.graphs.graph import NO_NODES, AttributionGraph
from vitlens.circuits.graphs.influence import influence_on_logits
from vitlens.pages.explorer.measure.quantise import as_numpy

#: Edges that a page holds: those with the greatest influence, and the strongest into each target.
MOST_EDGES, EDGES_OF_A_TARGET = 100_000, 16


@dataclass(frozen=True)
class Flow:
    """A graph as the page has it: logits first, then all other sources that are nodes, N in all.

    `influence` [N] is 1 for the logits together. `columns` have "total", "constant", "rest", "left_out" and "magnitude" [N]
    of targets, NaN of other nodes. Edges are sorted by target, the most influential first.
    """

    influence: Float[np.ndarray, "node"]
    columns: dict[str, Float[np.ndarray, "node"]]
    edge_target: Int[np.ndarray, "edge"]
    edge_source: Int[np.ndarray, "edge"]
    edge_effect: Float[np.ndarray, "edge"]


def flow_of(graph: AttributionGraph) -> Flow:
    place = {label: i for i, label in enumerate(graph.nodes)}
    column = {label: i for i, label in enumerate(graph.sources)}
    targets = torch.tensor([place[label] for label in graph.targets])
    is_node = torch.tensor([label.kind not in NO_NODES for label in graph.sources])
    nodes = torch.tensor([place[label] for label in graph.sources if label.kind not in NO_NODES])
    shares = graph.shares().cpu()
    of_sources, of_targets = influence_on_logits(
        shares, torch.tensor([column.get(label, -1) for label in graph.targets])
    )
    influence = torch.zeros(len(place), dtype=torch.float64)
    influence[nodes] = of_sources[is_node]
    influence[targets] = of_targets
    flows = (of_targets[:, None] * shares)[:, is_node]
    rows, columns = _strongest(flows).nonzero(as_tuple=True)
    order = torch.from_numpy(np.lexsort((-flows[rows, columns].numpy(), targets[rows].numpy())))
    rows, columns = rows[order], columns[order]
    values = graph.values.cpu()
    constant, rest = (values[:, next(column[one] for one in graph.sources if one.kind == kind)] for kind in NO_NODES)
    known = values[:, is_node].abs().double().sum(dim=1)
    left_out = graph.left_out.cpu().double()

    def by_node(of_targets: Tensor) -> Float[np.ndarray, "node"]:
        found = torch.full((len(place),), torch.nan, dtype=torch.float64)
        found[targets] = of_targets.double()
        return as_numpy(found)

    return Flow(
        as_numpy(influence),
        {
            "total": by_node(graph.totals.cpu()),
            "constant": by_node(constant),
            "rest": by_node(rest),
            "left_out": by_node(left_out),
            "magnitude": by_node(known / (1 - left_out).clamp_min(1e-12)),
        },
        targets[rows].numpy().astype(np.int32),
        nodes[columns].numpy().astype(np.int32),
        as_numpy(values[:, is_node][rows, columns]),
    )


def _strongest(flows: Float[Tensor, "target node"]) -> Bool[Tensor, "target node"]:
    """Which edges the page holds."""
    kept = torch.zeros_like(flows, dtype=torch.bool)
    kept.scatter_(1, flows.topk(min(EDGES_OF_A_TARGET, flows.shape[1]), dim=1).indices, True)
    strongest = flows.flatten().topk(min(MOST_EDGES, flows.numel())).indices
    kept.view(-1)[strongest] = True
    return kept & (flows > 0)
