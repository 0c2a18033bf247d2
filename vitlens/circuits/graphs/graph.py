"""The attribution graph of one picture: what it is as a result."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.results.axes import NodeLabel, TokenLabel
from vitlens.results.frames import Frame
from vitlens.results.result import Result

#: Kinds of nodes that are active units.
UNIT_KINDS = ("feature", "neuron", "group")
#: Sources that complete the sums and are no nodes of the picture's graph.
NO_NODES = ("constant", "rest")


@dataclass(frozen=True, repr=False)
class AttributionGraph(Result):
    """`values` [target, source]: the direct linear effect of each source on each target, in one picture's frozen run.

    Targets are logits (or differences of logits), and units: features or neurons of a block at a token. Sources are units,
    what MLPs write that the units do not ("error"), the embedding and position of each token, "constant" (all biases on the
    way), and "rest" (active units that are no nodes). A row sums to `totals` [target]: the logit, or the unit's
    pre-activation. `activations` [source] are those of units, NaN of other sources. `left_out` [target] is the share of the
    magnitudes of all edges into a target that are in "rest". `tokens` are the labels of the sequence, and `grid` the
    rows and columns of the patches.
    """

    totals: Float[Tensor, "target"]
    activations: Float[Tensor, "source"]
    left_out: Float[Tensor, "target"]
    tokens: list[TokenLabel]
    grid: tuple[int, int]

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
        """Magnitudes of edges over their sum at each target; 0 for the constant."""
        magnitudes = self.values.abs().double()
        rest, constant = (self._column(kind) for kind in ("rest", "constant"))
        magnitudes[:, [rest, constant]] = 0
        known = magnitudes.sum(dim=1, keepdim=True)
        # Of the rest, magnitudes and not their signed sum count: `left_out` is their share.
        left_out = self.left_out.double()[:, None]
        shares = magnitudes / known.clamp_min(torch.finfo(known.dtype).tiny) * (1 - left_out)
        shares[:, rest] = left_out[:, 0]
        return shares

    def _column(self, kind: str) -> int:
        return next(i for i, label in enumerate(self.sources) if label.kind == kind)
