"""The edges into the targets so far, and which units have the greatest influence through them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.edges import Sources
from vitlens.circuits.graphs.frozen_run import Reads

#: Edges from units that are kept of each target; there are more only without sparsity.
EDGES_KEPT = 2**13


class ChosenRows:
    """A row of edges for each target: logits first, then units in the order in which they were chosen.

    Of each row the strongest edges from units are kept, all edges from other sources, and the sums of all.
    """

    def __init__(self, sources: Sources, targets: Reads, totals: Float[Tensor, "logit"], constants: Tensor) -> None:
        self.sources = sources
        #: The place among the sources of each target; −1 of logits.
        self.places = torch.empty(0, dtype=torch.long)
        self.totals, self.constants = totals.new_empty(0), totals.new_empty(0)
        self._sums, self._magnitudes = totals.new_empty(0), totals.new_empty(0, dtype=torch.float64)
        self._blocks: list[Int[Tensor, "row"]] = []
        self._units: list[tuple[Int[Tensor, "row edge"], Float[Tensor, "row edge"]]] = []
        self._others: list[Float[Tensor, "row other"]] = []
        self._add(torch.full((len(totals),), -1), targets, totals, constants)

    @property
    def n_units(self) -> int:
        return int((self.places >= 0).sum())

    def add_units(self, places: Int[Tensor, "row"]) -> None:
        """Makes these units targets."""
        sources = self.sources
        places = places[torch.argsort(places)]
        # The last block first, as a pass back meets them.
        places = places[torch.argsort(sources.blocks[places], descending=True, stable=True)]
        targets = sources.reads(places)
        totals = sources.pre_activations(places)
        constants = totals - (targets.directions * sources.run.read_at(targets)).sum(dim=-1)
        self._add(places, targets, totals, constants)

    def _add(self, places: Tensor, targets: Reads, totals: Tensor, constants: Tensor) -> None:
        edges, on_the_way = self.sources.edges_into(targets)
        n = self.sources.n_units
        of_units, others = edges[:, :n], edges[:, n:]
        strongest = of_units.abs().topk(min(EDGES_KEPT, n), dim=1, sorted=False).indices
        self._units.append((strongest, of_units.gather(1, strongest)))
        self._others.append(others)
        self._blocks.append(targets.blocks)
        self.places = torch.cat([self.places, places])
        self.totals = torch.cat([self.totals, totals])
        self.constants = torch.cat([self.constants, constants + on_the_way])
        self._sums = torch.cat([self._sums, of_units.sum(dim=1)])
        self._magnitudes = torch.cat([self._magnitudes, edges.abs().sum(dim=1, dtype=torch.float64)])

    def next_units(self, n: int) -> Int[Tensor, "row"]:
        """The n units with the greatest influence that are no targets yet; fewer where the others have none."""
        influence = self._influence()
        influence[self.places[self.places >= 0]] = 0
        best = influence.topk(min(n, len(influence)))
        return best.indices[best.values > 0]

    def _influence(self) -> Float[Tensor, "unit"]:
        """The influence of each unit on the logits: shared among a target's sources by the magnitudes of their edges.

        An edge leads from an earlier block to a later one, so one pass from the logits back finds it.
        """
        influence = torch.zeros(self.sources.n_units, dtype=torch.float64)
        blocks = torch.cat(self._blocks)
        strongest, effects = (torch.cat([part[i] for part in self._units]) for i in range(2))
        shares = effects.abs().double() / self._magnitudes.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
        for block in blocks.unique(sorted=True).flip(0):
            rows = (blocks == block).nonzero()[:, 0]
            places = self.places[rows]
            mine = torch.where(places < 0, 1.0, influence[places.clamp_min(0)])
            influence.index_add_(0, strongest[rows].flatten(), (mine[:, None] * shares[rows]).flatten())
        return influence

    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """The edges [target, source] from the units that are targets, in this order, from all other sources, the constant
        and the rest; for each target the share of all magnitudes that is in the rest."""
        chosen = self.places[self.places >= 0]
        column = torch.full((self.sources.n_units,), -1)
        column[chosen] = torch.arange(len(chosen))
        strongest, effects = (torch.cat([part[i] for part in self._units]) for i in range(2))
        others = torch.cat(self._others)
        # One more column takes what comes from units that are no nodes.
        columns = torch.where(column[strongest] < 0, len(chosen), column[strongest])
        of_units = effects.new_zeros(len(effects), len(chosen) + 1).scatter_add_(1, columns, effects)[:, :-1]
        rest = self._sums - of_units.sum(dim=1)
        known = of_units.abs().sum(dim=1, dtype=torch.float64) + others.abs().sum(dim=1, dtype=torch.float64)
        left_out = 1 - known / self._magnitudes.clamp_min(torch.finfo(torch.float64).tiny)
        return (
            torch.cat([of_units, others, self.constants[:, None], rest[:, None]], dim=1),
            left_out.clamp_min(0),
            chosen,
        )
