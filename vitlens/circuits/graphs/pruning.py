"""Which nodes and edges of an attribution graph are kept: those that most of the influence on the logits goes through."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.circuits.graphs.influence import completing, influence_on_logits


@dataclass(frozen=True)
class LeftGraph:
    """What is left of a graph: its targets, its sources (constant and rest included), and the edges between nodes."""

    targets: Bool[Tensor, "target"]
    sources: Bool[Tensor, "source"]
    edges: Bool[Tensor, "target source"]


def influential(
    shares: Float[Tensor, "target source"],
    columns: Int[Tensor, "target"],
    is_node: Bool[Tensor, "source"],
    is_embedding: Bool[Tensor, "source"],
    node_share: float,
    edge_share: float,
) -> LeftGraph:
    """Keeps the nodes with the greatest influence, then the edges, then what still leads somewhere.

    Args:
        shares: of each target's sources, as `influence_on_logits` takes them, with the `columns` of the targets.
        is_node: which sources are nodes: neither the constant nor the rest.
        is_embedding: which of them stay, however small their influence is, if an edge is left to them.
        node_share: of the influence of all nodes, how much the kept ones have.
        edge_share: of the influence of all edges between kept nodes, how much the kept ones have.
    """
    influence, _ = influence_on_logits(shares, columns)
    sources = completing(influence.where(is_node, 0), node_share) | is_embedding
    targets = _of_targets(sources, columns)
    between = shares * (targets[:, None] & sources)
    between = between / between.sum(dim=1, keepdim=True).clamp_min(torch.finfo(between.dtype).tiny)
    through = between * influence_on_logits(between, columns)[1][:, None]
    edges = completing(through.flatten(), edge_share).unflatten(0, through.shape)
    while True:
        leads = edges.any(dim=0)
        # A unit also needs something that it comes from.
        is_reached = torch.ones_like(leads)
        is_unit = columns >= 0
        is_reached[columns[is_unit]] = edges[is_unit].any(dim=1)
        left = sources & leads & is_reached
        edges = edges & left & _of_targets(left, columns)[:, None]
        if torch.equal(left, sources):
            break
        sources = left
    return LeftGraph(_of_targets(sources, columns), sources | ~is_node, edges)


def _of_targets(sources: Bool[Tensor, "source"], columns: Int[Tensor, "target"]) -> Bool[Tensor, "target"]:
    """Which targets are kept where these sources are; logits always."""
    return torch.where(columns < 0, True, sources[columns.clamp_min(0)])
