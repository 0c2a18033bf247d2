"""Supernodes: groups of nodes that are read as one, named by hand or proposed for what they have in common."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from vitlens.arguments import short
from vitlens.errors import InputError, nearest
from vitlens.results.axes import NodeLabel

#: What members of a proposed supernode have in common.
IN_COMMON = ("feature", "input", "output", "both")
Supernodes = Mapping[str, Sequence[str]]


def read_supernodes(supernodes: Supernodes, nodes: Sequence[NodeLabel]) -> dict[str, list[NodeLabel]]:
    """The members of each supernode as nodes of a graph.

    Raises:
        InputError: no mapping from names to lists of nodes; an unknown node, a logit, one in two supernodes; a name that a
            node has already.
    """
    if not isinstance(supernodes, Mapping):
        raise InputError(f"supernodes= is a dictionary from names to lists of nodes, not {short(supernodes)}")
    known = {str(label): label for label in nodes if label.kind != "logit"}
    found: dict[str, list[NodeLabel]] = {}
    owner: dict[str, str] = {}
    for name, members in supernodes.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"the name of a supernode is a text, not {short(name)}")
        if name in (str(label) for label in nodes):
            raise InputError(f"a node is called {name!r} already: give the supernode another name")
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise InputError(f"supernode {name!r} is a list of the names of its nodes, not {short(members)}")
        for member in members:
            if member not in known:
                what = "a logit, which belongs to no supernode" if member in nodes else "no node of this graph"
                raise InputError(f"{member!r} is {what}; the nearest names are {nearest(str(member), known)}")
            if member in owner:
                raise InputError(f"{member!r} is in two supernodes, {owner[member]!r} and {name!r}: it belongs to one")
            owner[str(member)] = name
        found[name] = [known[str(member)] for member in members]
    return found


def flattened(
    supernodes: Mapping[str, Sequence[NodeLabel]],
    before: Mapping[str, Sequence[NodeLabel]],
    labels: Sequence[NodeLabel],
) -> dict[str, list[NodeLabel]]:
    """The single nodes of all supernodes among the labels: of those that were there before, and of those made of them."""
    found = {str(name): list(before[name]) for name in labels if name.kind == "group" and name in before}
    return found | {
        name: [single for member in members for single in (before[member] if member.kind == "group" else [member])]
        for name, members in supernodes.items()
    }


def merged(
    labels: Sequence[NodeLabel], supernodes: Mapping[str, Sequence[NodeLabel]]
) -> tuple[list[NodeLabel], Float[Tensor, "merged label"]]:
    """The labels with each supernode in the place of its first member, and which of them each is the sum of."""
    owner = {str(member): name for name, members in supernodes.items() for member in members}
    place: dict[str, int] = {}
    found: list[NodeLabel] = []
    rows = []
    for label in labels:
        name = owner.get(str(label), str(label))
        if name not in place:
            place[name] = len(found)
            found.append(_label(name, supernodes[name]) if name in supernodes else label)
        rows.append(place[name])
    sums = torch.zeros(len(found), len(labels), dtype=torch.float64)
    sums[rows, range(len(labels))] = 1
    return found, sums


def _label(name: str, members: Sequence[NodeLabel]) -> NodeLabel:
    """A supernode stands where all of its members stand, if they do."""

    def common(values: set[int | None]) -> int | None:
        return next(iter(values)) if len(values) == 1 else None

    return NodeLabel(
        name,
        "group",
        common({label.block for label in members}),
        common({label.token for label in members}),
        members[0].feature if len({(label.kind, label.block, label.feature) for label in members}) == 1 else None,
    )


def alike(
    units: Sequence[NodeLabel],
    inputs: Float[Tensor, "unit source"],
    outputs: Float[Tensor, "unit target"],
    influence: Float[Tensor, "unit"],
    method: str,
    min_similarity: float,
) -> dict[str, list[str]]:
    """Units that are the same feature, or whose edges have the same shape, as supernodes, the most influential first.

    Args:
        inputs: the edges into each unit.
        outputs: the edges from each unit, as shares of the targets.
        influence: of each unit; the first member is the one with the most.
        method: one of IN_COMMON.
        min_similarity: the least mean cosine similarity between the edges of the members of two clusters that are merged.
    """
    if method not in IN_COMMON:
        raise InputError(f"supernodes are proposed by one of {', '.join(IN_COMMON)}, not {method!r}")
    if not -1 <= min_similarity <= 1:
        raise InputError(f"min_similarity= is a cosine, between -1 and 1, not {min_similarity}")
    clusters: dict[object, list[int]] = defaultdict(list)
    if method == "feature":
        for place, unit in enumerate(units):
            clusters[unit.kind, unit.block, unit.feature].append(place)
    else:
        parts = {"input": [inputs], "output": [outputs], "both": [inputs, outputs]}[method]
        for place, number in _clustered(
            torch.cat([_normalised(part) for part in parts], dim=1), min_similarity
        ).items():
            clusters[number].append(place)
    ranked = [sorted(members, key=lambda i: -influence[i].item()) for members in clusters.values() if len(members) > 1]
    ranked.sort(key=lambda members: -influence[members].sum().item())
    return {_name(units, members, method): [str(units[i]) for i in members] for members in ranked}


def _clustered(vectors: Float[Tensor, "unit edge"], min_similarity: float) -> dict[int, int]:
    """The number of the cluster of each unit that has edges at all: those without are like nothing."""
    there = vectors.norm(dim=1).nonzero()[:, 0].tolist()
    if len(there) < 2:
        return {}
    model = AgglomerativeClustering(
        n_clusters=None, distance_threshold=1 - min_similarity, metric="cosine", linkage="average"
    )
    numbers = model.fit_predict(np.asarray(vectors[there].double().cpu()))
    return dict(zip(there, numbers.tolist(), strict=True))


def _normalised(vectors: Float[Tensor, "unit edge"]) -> Float[Tensor, "unit edge"]:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)


def _name(units: Sequence[NodeLabel], members: Sequence[int], method: str) -> str:
    first = units[members[0]]
    if method == "feature":
        return f"L{first.block} {first.kind} {first.feature} at {len(members)} tokens"
    return f"{first} and {len(members) - 1} more"
