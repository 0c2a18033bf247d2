"""The parts outside the circuit: heads that attend sharply and neurons that fire, without effect on the class.

Idle components read whatever the stream holds, the circuit's own features included, and write only into idle directions,
which the circuit never reads. They act on the logits through LayerNorm's scale and through the dust in the weights alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.planted.scenes import TEXTURE_STRENGTH
from vitlens.planted.stream import D_MODEL, Stream
from vitlens.planted.weights import (
    DEPTH,
    HEADS,
    NEURONS,
    SHARPNESS,
    Head,
    Neuron,
    Place,
    random_rotation,
    random_rows,
    write_head,
    write_neuron,
)

# How much of what it finds an idle head copies, and how strongly an idle neuron writes: outputs come out about as long as
# those of the circuit.
COPIED = 1.3
WRITTEN = 0.2


def write_blocks(
    module: Any,
    stream: Stream,
    lures: tuple[str, ...],
    heads: Mapping[Place, Head],
    neurons: Mapping[Place, Neuron],
    generator: torch.Generator,
    *,
    loudness: float = 1.0,
) -> None:
    """Writes these heads and neurons, and in every other place an idle one; what idle ones write is scaled by `loudness`."""
    for block in range(DEPTH):
        for index in range(HEADS):
            idle = idle_head(stream, lures, generator)
            idle = replace(idle, output=loudness * idle.output)
            write_head(module, (block, index), heads.get((block, index), idle), generator)
        for index, neuron in enumerate(idle_neurons(stream, generator)):
            neuron = replace(neuron, writes=loudness * neuron.writes)
            write_neuron(module, (block, index), neurons.get((block, index), neuron))


def draw_lure(stream: Stream, families: tuple[str, ...], generator: torch.Generator) -> Float[Tensor, "1 d"]:
    """A feature for an idle head to look for: a row to read its strength with."""
    family = families[draw_below(len(families), generator)]
    member = draw_below(len(stream[family]), generator)
    strength = TEXTURE_STRENGTH if family == "texture" else 1.0
    return stream.read(family)[member : member + 1] / strength


def idle_head(stream: Stream, lures: tuple[str, ...], generator: torch.Generator) -> Head:
    """Looks for a lure, or for the large token if the model has one, and copies a mixture of all that is there."""
    size = D_MODEL // HEADS
    lure = draw_lure(stream, lures, generator)
    content = stream.read_content(with_idle=False)
    mixture = random_rotation(len(content), generator)[:size]
    value = COPIED * mixture @ content
    if "large" in stream:
        lure = lure + 4 * stream.read_dominant("large")
        value = value + COPIED * random_rows(size, 1, generator) * stream.read_dominant("large") / size**0.5
    written = random_rotation(len(stream["idle"]), generator)[:size] @ stream["idle"]
    return Head(stream.unit, SHARPNESS * lure, value, written)


def idle_neurons(stream: Stream, generator: torch.Generator) -> list[Neuron]:
    """A block's worth of neurons that fire when the sum of three random features, each with a random sign, is large."""
    content = stream.read_content(with_idle=True)
    chosen = torch.rand(NEURONS, len(content), generator=generator).argsort(dim=1)[:, :3]
    signs = torch.randint(2, (NEURONS, 3), generator=generator).double() * 2 - 1
    reads = 2 * (torch.zeros(NEURONS, len(content)).double().scatter(1, chosen, signs) @ content) - stream.unit
    writes = WRITTEN * random_rows(NEURONS, len(stream["idle"]), generator) @ stream["idle"]
    return [Neuron(*vectors) for vectors in zip(reads, writes, strict=True)]


def draw_below(n: int, generator: torch.Generator) -> int:
    """A number from 0."""
    return int(torch.randint(n, (1,), generator=generator))
