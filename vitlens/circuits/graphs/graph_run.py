"""A graph and the run that it was made from: what its targets read, and what its sources write."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.circuits.graphs.frozen_run import FrozenRun, Reads, StreamRows
from vitlens.circuits.graphs.graph import NO_NODES, UNIT_KINDS, AttributionGraph
from vitlens.circuits.graphs.logits import logits_as_targets
from vitlens.circuits.graphs.replacement import MLPReplacement, Transcoders, replaced_run
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled
from vitlens.model.runs.picture_run import PictureRun
from vitlens.results.axes import NodeLabel

#: By how much a logit or a pre-activation may differ between two runs of one picture, as a share of the largest.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class GraphRun:
    """`graph` is a graph of this run, whose MLPs are replaced by `replacements`."""

    graph: AttributionGraph
    picture: Float[Tensor, "1 channels height width"]
    run: FrozenRun
    replacements: list[MLPReplacement]
    logits: Reads

    def reads(self, targets: Sequence[int]) -> tuple[list[int], Reads]:
        """What these targets of the graph read, and their order as a pass back needs it: the last block first."""
        labels = self.graph.targets
        n_blocks = len(self.run.blocks)
        blocks = {i: n_blocks if labels[i].kind == "logit" else _known(labels[i].block) for i in targets}
        order = sorted(targets, key=lambda i: -blocks[i])
        is_logit = [i for i, label in enumerate(labels) if label.kind == "logit"]
        final = self.logits.final[[is_logit.index(i) for i in order if i in is_logit]]
        units = [labels[i] for i in order if i not in is_logit]
        tokens = torch.tensor([0] * len(final) + [_known(label.token) for label in units], device=final.device)
        none = final.new_zeros(len(final), final.shape[-1])
        directions = torch.cat([none, *(self._direction(label)[None] for label in units)])
        return order, Reads(torch.tensor([blocks[i] for i in order], device=final.device), tokens, directions, final)

    def written(self, sources: Sequence[NodeLabel]) -> dict[int, StreamRows]:
        """What each of these nodes writes, by the block in the place of whose MLP; under −1 what enters block 0."""
        like = self.run.mlp_out(0)
        found: dict[int, StreamRows] = defaultdict(lambda: like.new_zeros(len(sources), *like.shape))
        embeddings = self.run.embeddings()
        for row, label in enumerate(sources):
            token = _known(label.token)
            if label.kind in UNIT_KINDS:
                replacement, unit = self.of_block(_known(label.block)), _known(label.feature)
                value = replacement.values[token, unit] * replacement.scale[token, 0]
                for block, directions in replacement.writes.items():
                    found[block][row, token] = value * directions[unit]
            elif label.kind == "error":
                block = _known(label.block)
                error = self.of_block(block).error
                assert error is not None
                found[block][row, token] = error[token]
            else:
                found[-1][row, token] = embeddings[label.kind][token]
        return dict(found)

    def compared(self, logits: Float[Tensor, "run classes"]) -> Float[Tensor, "run logit"]:
        """The graph's logits, or differences of logits, out of those of all classes."""
        assert self.graph.classes is not None
        chosen = logits[:, self.graph.classes[0].to(logits.device)]
        baselines = self.graph.baselines
        return chosen if baselines is None else chosen - logits[:, baselines[0].to(logits.device)]

    def of_block(self, block: int) -> MLPReplacement:
        """What replaces the MLP of this block."""
        return next(replacement for replacement in self.replacements if replacement.block == block)

    def _direction(self, label: NodeLabel) -> Float[Tensor, "d"]:
        unit, token = (torch.tensor([_known(place)]) for place in (label.feature, label.token))
        return self.of_block(_known(label.block)).read_directions(unit, token)[0]


@gradients_disabled()
def run_of_graph(model: HookedViT, images: Pictures, graph: AttributionGraph, transcoders: Transcoders) -> GraphRun:
    """Runs the model again on the picture of a graph.

    Raises:
        InputError: the graph is of another picture, model or dictionary, or has groups of nodes; as `replaced_run`.
    """
    picture = one_picture(model, images)
    if any(label.kind == "group" for label in graph.sources):
        raise InputError(
            "this graph has groups of nodes, which no run knows: pass the graph from before they were made"
        )
    run, replacements = replaced_run(model, picture, transcoders)
    sentence = (
        "the graph is of another picture, model or dictionary: pass the model, images= and transcoders= with which "
        "attribution_graph made it"
    )
    if len(graph.tokens) != run.n_tokens or graph.classes is None or int(graph.classes.max()) >= len(run.logits):
        raise InputError(sentence)
    classes = graph.classes.to(run.logits.device)
    baselines = None if graph.baselines is None else graph.baselines.to(run.logits.device)
    logits, totals, _ = logits_as_targets(run, classes, baselines)
    found = GraphRun(graph, picture, run, replacements, logits)
    known = _totals(found, totals)
    if known is None or not torch.allclose(known, graph.totals.to(known), 0, TOLERANCE * float(known.abs().max())):
        raise InputError(sentence)
    return found


def one_picture(model: HookedViT, images: Pictures) -> Float[Tensor, "1 channels height width"]:
    """The picture of a graph.

    Raises:
        InputError: several, or none.
    """
    run = PictureRun(model, images, 1, False, "attribution graph")
    if run.n != 1:
        raise InputError(f"an attribution graph is about one picture, not {run.n}: pass images[i : i + 1]")
    return next(pictures for _, pictures in run)


def nodes_that_write(graph: AttributionGraph) -> list[int]:
    """The places among the sources of those that are nodes."""
    return [i for i, label in enumerate(graph.sources) if label.kind not in NO_NODES]


def _totals(of: GraphRun, logits: Float[Tensor, "logit"]) -> Float[Tensor, "target"] | None:
    """The logits and pre-activations that the graph's targets have in this run; None where there are no such."""
    labels = of.graph.targets
    units = [label for label in labels if label.kind != "logit"]
    if len(units) + len(logits) != len(labels):
        return None
    found = []
    for label in units:
        replacement = next((one for one in of.replacements if one.block == label.block), None)
        if replacement is None or replacement.kind != label.kind:
            return None
        pre, token, unit = replacement.pre_activations, _known(label.token), _known(label.feature)
        if token >= pre.shape[0] or unit >= pre.shape[1]:
            return None
        found.append(pre[token, unit])
    return torch.cat([logits, torch.stack(found)]) if found else logits


def _known(place: int | None) -> int:
    assert place is not None
    return place
