"""What is known of each unit of the graphs: where it is active in a picture, and which classes its direction raises."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.graph import AttributionGraph
from vitlens.circuits.graphs.replacement import MLPReplacement
from vitlens.errors import InputError
from vitlens.features.top_examples import classes_of_directions
from vitlens.model.hooked_vit import HookedViT

#: Classes that a card names on each side.
N_CLASSES = 5
#: How far a graph's activations may be from those of the run that the page makes, relative to the largest.
CLOSE = 1e-3

#: A unit: its block and its number there.
BlockUnit = tuple[int, int]


def units_of(graphs: Sequence[AttributionGraph]) -> list[BlockUnit]:
    """All units of some graphs, each once, in the order of blocks."""
    labels = [label for graph in graphs for label in graph.units]
    return sorted(
        {(label.block, label.feature) for label in labels if label.block is not None and label.feature is not None}
    )


def check_same_run(graph: AttributionGraph, replacements: Sequence[MLPReplacement]) -> None:
    """
    Raises:
        InputError: the graph's units are not those of this picture and these transcoders.
    """
    by_block = {replacement.block: replacement for replacement in replacements}
    largest = graph.activations.nan_to_num().abs().max().clamp_min(1e-12)
    for label, activation in zip(graph.sources, graph.activations, strict=True):
        if label.block is None or label.token is None or label.feature is None:
            continue
        replacement = by_block[label.block]
        known = replacement.kind == label.kind and label.feature < replacement.values.shape[1]
        if not known or label.token >= len(replacement.values):
            raise InputError(
                f"the graph's nodes are {label.kind}s such as {label}, and these are no units of this run: pass the "
                "transcoders= that the graph was made with"
            )
        there = replacement.values[label.token, label.feature]
        if (there - activation).abs() > CLOSE * largest:
            raise InputError(
                f"{label} has activation {float(activation):.4g} in the graph and {float(there):.4g} in this picture: pass "
                "the picture, model and transcoders= that the graph was made with"
            )


def activation_maps(units: Sequence[BlockUnit], replacements: Sequence[MLPReplacement]) -> Float[Tensor, "unit token"]:
    """What each unit is at each token of the picture."""
    by_block = {replacement.block: replacement for replacement in replacements}
    return torch.stack([by_block[block].values[:, unit] for block, unit in units])


def classes_of(
    model: HookedViT, units: Sequence[BlockUnit], replacements: Sequence[MLPReplacement]
) -> tuple[Int[Tensor, "unit place"], Float[Tensor, "unit place"]]:
    """The classes that each unit raises most, strongest first, then those that it lowers most, weakest first.

    Read from all that it writes, in whichever blocks.
    """
    by_block = {replacement.block: replacement for replacement in replacements}
    directions = torch.stack(
        [torch.stack([part[unit] for part in by_block[block].writes.values()]).sum(dim=0) for block, unit in units]
    )
    values = classes_of_directions(model, directions).float()
    n = min(N_CLASSES, values.shape[1] // 2)
    raised, lowered = values.topk(n, dim=1), values.topk(n, dim=1, largest=False)
    return (
        torch.cat([raised.indices, lowered.indices.flip(1)], dim=1),
        torch.cat([raised.values, lowered.values.flip(1)], dim=1),
    )
