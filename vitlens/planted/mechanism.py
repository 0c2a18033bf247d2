"""What a mechanism defines: its features, the circuit that uses them, and the pictures that need it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from vitlens.planted.planted_vit import PlantedTruth
from vitlens.planted.scenes import ScenePairs
from vitlens.planted.stream import Stream
from vitlens.planted.weights import DEPTH, HEADS, Head, Neuron, Place


@dataclass(frozen=True)
class WrittenParts:
    """The heads and neurons that are written by hand, and the truth about them."""

    heads: dict[Place, Head]
    truth: PlantedTruth
    neurons: dict[Place, Neuron] = field(default_factory=dict)


@dataclass(frozen=True)
class Mechanism:
    """A recipe for planted models.

    `seen` and `held` are families of features and their sizes: those on the patches, and those that only the circuit
    writes. `lures` are the families that idle heads look for.
    """

    description: str
    seen: dict[str, int]
    held: dict[str, int]
    lures: tuple[str, ...]
    circuit: Callable[[Stream, torch.Generator], WrittenParts]
    scenes: Callable[[int, torch.Generator], ScenePairs]


def draw_between(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number, both ends included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def draw_head(low: int, high: int, generator: torch.Generator) -> Place:
    """A head of these blocks."""
    return draw_between(low, high, generator), draw_between(0, HEADS - 1, generator)


def draw_heads(n: int, generator: torch.Generator) -> list[Place]:
    """Different heads of any blocks."""
    places: list[Place] = []
    while len(places) < n:
        places = list(dict.fromkeys([*places, draw_head(0, DEPTH - 1, generator)]))
    return places


def name_of(place: Place) -> str:
    """A head's name as a node of the graph."""
    return f"L{place[0]}H{place[1]}"
