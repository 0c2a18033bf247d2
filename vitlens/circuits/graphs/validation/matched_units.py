"""Active units that are no nodes of a graph, as active as its nodes are: what a graph's choice is compared with."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.edges import Sources
from vitlens.results.axes import NodeLabel

#: Of so many units whose activity is nearest one is drawn.
NEAREST = 10


def places_of(sources: Sources, units: list[NodeLabel]) -> Int[Tensor, "place"]:
    """The places of active units among all sources."""
    blocks = {label.block for label in units}
    found: dict[tuple[int | None, int | None, int | None], int] = {
        (of.replacement.block, token, unit): of.first + i
        for of in sources.units
        if of.replacement.block in blocks
        for i, (token, unit) in enumerate(zip(of.tokens.tolist(), of.units.tolist(), strict=True))
    }
    return torch.tensor([found[label.block, label.token, label.feature] for label in units], dtype=torch.long)


def activity_of(sources: Sources) -> Float[Tensor, "place"]:
    """The length of what each active unit writes, in all blocks together: |activation| · ‖direction‖."""
    found = []
    for of in sources.units:
        lengths = torch.stack([way.square().sum(dim=1) for way in of.replacement.writes.values()]).sum(dim=0).sqrt()
        found.append((of.values * of.replacement.scale[of.tokens, 0]).abs() * lengths[of.units])
    return torch.cat(found)


def matched_units(
    sources: Sources, named: Int[Tensor, "named"], taken: Int[Tensor, "taken"], seed: int
) -> Int[Tensor, "matched"]:
    """For each unit that is named a random one of its block that is not taken, of about the same activity, none twice.

    Where a block has no more units, there are fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    activity, blocks = activity_of(sources).cpu(), sources.blocks
    is_free = torch.ones(len(activity), dtype=torch.bool)
    is_free[taken] = False
    found = []
    for place in named[torch.randperm(len(named), generator=generator)].tolist():
        mine = (is_free & (blocks == blocks[place])).nonzero()[:, 0]
        if len(mine):
            distance = (activity[mine] - activity[place]).abs()
            nearest = mine[distance.topk(min(NEAREST, len(mine)), largest=False).indices]
            found.append(int(nearest[torch.randint(len(nearest), (), generator=generator)]))
            is_free[found[-1]] = False
    return torch.tensor(found, dtype=torch.long)
