"""What a graph predicts of a change of its units: direct effects, and those through its other units."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.circuits.graphs.graph_run import GraphRun
from vitlens.circuits.graphs.replacement import MLPReplacement
from vitlens.errors import InputError
from vitlens.model.parts.mlp import GatedMLP
from vitlens.results.axes import NodeLabel


class TotalEffects:
    """The linear model that a graph is: units with their edges, each answering with the slope that it has in the run.

    If a source's activation changes by the share r of itself, an edge changes by r times its effect, and a unit's activation
    by its slope times what its edges change by. `of_units` [logit, unit] is how the logits change where r is 1.
    """

    def __init__(self, of: GraphRun) -> None:
        graph = of.graph
        targets = {label: row for row, label in enumerate(graph.targets)}
        columns = {label: column for column, label in enumerate(graph.sources)}
        self.units: list[NodeLabel] = graph.units
        self.logits = [row for row, label in enumerate(graph.targets) if label.kind == "logit"]
        values = graph.values.double()
        #: The rows of units that are targets, and their places among the units.
        there = [(place, targets[label]) for place, label in enumerate(self.units) if label in targets]
        self.places, self.rows = (torch.tensor([pair[i] for pair in there], dtype=torch.long) for i in range(2))
        self._answers = self._answers_of(of)
        edges = values[:, [columns[label] for label in self.units]]
        through = edges.new_zeros(len(self.units), len(self.units))
        through[self.places] = edges[self.rows] * self._answers[self.places, None]
        # x = direct + x · through, where no unit is before itself.
        rest = torch.eye(len(self.units)).to(through) - through
        self.of_units = torch.linalg.solve(rest, edges[self.logits], left=False)

    def of_others(self, edges: Float[Tensor, "target other"]) -> Float[Tensor, "logit other"]:
        """The same for sources that are no nodes, from their edges into the graph's targets."""
        answers = edges.double()[self.rows] * self._answers[self.places, None]
        return edges.double()[self.logits] + self.of_units[:, self.places] @ answers

    def _answers_of(self, of: GraphRun) -> Float[Tensor, "unit"]:
        """By which share of itself each unit's activation grows when its pre-activation grows by 1."""
        slopes = {replacement.block: slopes_of(of, replacement) for replacement in of.replacements}
        values = {replacement.block: replacement.values for replacement in of.replacements}
        found = [
            (slopes[label.block] / values[label.block])[label.token, label.feature].double()
            for label in self.units
            if label.block is not None
        ]
        return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)


def slopes_of(of: GraphRun, replacement: MLPReplacement) -> Float[Tensor, "token unit"]:
    """∂activation/∂pre-activation of every unit of a block, as the run has them.

    Raises:
        InputError: neurons that answer to each other, since a norm stands behind them.
    """
    mlp = of.run.blocks[replacement.block].block.mlp
    if replacement.dictionary is not None:
        activate = replacement.dictionary.activation
    elif replacement.kind == "feature":
        # A block without a transcoder has no units.
        return replacement.values
    elif mlp.ln is not None:
        raise InputError(
            f"the neurons of {of.run.model.cfg.model_name} pass a norm together, so that none has a slope of its own: pass "
            "transcoders="
        )
    elif isinstance(mlp, GatedMLP):
        return replacement.values / replacement.pre_activations
    else:
        activate = mlp.act
    with torch.enable_grad():
        pre = replacement.pre_activations.detach().requires_grad_()
        return torch.autograd.grad(activate(pre).sum(), pre)[0]
