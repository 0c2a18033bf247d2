"""The edges into the targets so far, and which units have the greatest influence through them."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.edges import Sources
from vitlens.circuits.graphs.frozen_run import Reads

#: Edges from units that are kept of all targets together, but of each target at least so many, the strongest.
EDGES_KEPT, EDGES_OF_TARGET = 2**25, 2**13


class _Batch(NamedTuple):
    """The rows of the targets of one pass back. `places` are those of the targets among all sources, −1 of logits."""

    places: Int[Tensor, "row"]
    blocks: Int[Tensor, "row"]
    totals: Float[Tensor, "row"]
    constants: Float[Tensor, "row"]
    strongest: Int[Tensor, "row edge"]
    effects: Float[Tensor, "row edge"]
    others: Float[Tensor, "row other"]
    of_units: Float[Tensor, "row"]
    magnitudes: Float[Tensor, "row"]


class ChosenRows:
    """A row of edges for each target: logits first, then units in the order in which they were chosen.

    Of each row the strongest edges from units are kept (all, where `n_rows` have room for them), all edges from other
    sources, and the sums of all.
    """

    def __init__(
        self, sources: Sources, targets: Reads, totals: Float[Tensor, "logit"], constants: Tensor, n_rows: int
    ) -> None:
        self.sources = sources
        self._kept = min(sources.n_units, max(EDGES_OF_TARGET, EDGES_KEPT // n_rows))
        # A batch is added whole or not at all, also where the user interrupts.
        self._batches = [self._batch(torch.full_like(targets.blocks, -1), targets, totals, constants)]

    @property
    def units(self) -> Int[Tensor, "unit"]:
        """The places of the units that are targets, in the order of their rows."""
        places = self._all("places")
        return places[places >= 0]

    @property
    def totals(self) -> Float[Tensor, "target"]:
        return self._all("totals")

    def add_units(self, places: Int[Tensor, "row"]) -> None:
        """Makes these units targets."""
        sources = self.sources
        # The last block first, as a pass back meets them.
        places = places.sort().values
        places = places[sources.blocks[places].argsort(descending=True, stable=True)]
        targets = sources.reads(places)
        totals = sources.pre_activations(places)
        constants = totals - (targets.directions * sources.run.read_at(targets)).sum(dim=-1)
        self._batches.append(self._batch(places, targets, totals, constants))

    def _batch(self, places: Tensor, targets: Reads, totals: Tensor, constants: Tensor) -> _Batch:
        edges, on_the_way = self.sources.edges_into(targets)
        n = self.sources.n_units
        units, others = edges[:, :n], edges[:, n:]
        strongest = units.abs().topk(self._kept, dim=1, sorted=False).indices
        return _Batch(
            places,
            targets.blocks,
            totals,
            constants + on_the_way,
            strongest,
            units.gather(1, strongest),
            others.clone(),
            units.sum(dim=1),
            edges.abs().sum(dim=1, dtype=torch.float64),
        )

    def next_units(self, n: int) -> Int[Tensor, "row"]:
        """The n units with the greatest influence that are no targets yet; fewer where the others have none."""
        influence = self._influence()
        influence[self.units] = 0
        best = influence.topk(min(n, len(influence)))
        return best.indices[best.values > 0]

    def _influence(self) -> Float[Tensor, "unit"]:
        """The influence of each unit on the logits: shared among a target's sources by the magnitudes of their edges.

        An edge leads from an earlier block to a later one, so one pass from the logits back finds it.
        """
        strongest, effects, places = self._all("strongest"), self._all("effects"), self._all("places")
        influence = torch.zeros(self.sources.n_units, dtype=torch.float64, device=effects.device)
        shares = effects.abs().double() / _divisor(self._all("magnitudes"))
        blocks = self._all("blocks")
        for block in blocks.unique(sorted=True).flip(0):
            rows = (blocks == block).nonzero()[:, 0]
            mine = torch.where(places[rows] < 0, 1.0, influence[places[rows].clamp_min(0)])
            influence.index_add_(0, strongest[rows].flatten(), (mine[:, None] * shares[rows]).flatten())
        return influence

    def table(self) -> tuple[Float[Tensor, "target source"], Float[Tensor, "target"]]:
        """The edges from the units that are targets, in this order, from all other sources, the constant and the rest; and
        for each target the share of all magnitudes that is in the rest."""
        units, strongest, effects, others = (
            self.units,
            self._all("strongest"),
            self._all("effects"),
            self._all("others"),
        )
        column = torch.full((self.sources.n_units,), len(units), device=units.device)
        column[units] = torch.arange(len(units), device=units.device)
        # One more column takes what comes from units that are no nodes.
        table = effects.new_zeros(len(effects), len(units) + 1).scatter_add_(1, column[strongest], effects)[:, :-1]
        rest = self._all("of_units") - table.sum(dim=1)
        known = torch.cat([table, others], dim=1).abs().sum(dim=1, dtype=torch.float64, keepdim=True)
        left_out = 1 - known / _divisor(self._all("magnitudes"))
        whole = torch.cat([table, others, self._all("constants")[:, None], rest[:, None]], dim=1)
        return whole, left_out[:, 0].clamp_min(0).to(whole)

    def _all(self, name: str) -> Tensor:
        return torch.cat([getattr(batch, name) for batch in self._batches])


def _divisor(magnitudes: Float[Tensor, "row"]) -> Float[Tensor, "row 1"]:
    """Not 0 where nothing is written."""
    return magnitudes.clamp_min(torch.finfo(magnitudes.dtype).tiny)[:, None]
