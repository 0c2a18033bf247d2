"""A planted model with shape and colour on two patches; sixteen MLP neurons, one for each pair, write the class."""

import torch

from vitlens.planted.mechanism import Mechanism, WrittenParts, draw_between, draw_heads, name_of
from vitlens.planted.planted_vit import PlantedTruth
from vitlens.planted.scenes import (
    CLUTTER,
    N_CLASSES,
    Scene,
    ScenePairs,
    Spot,
    alternate,
    column_of,
    distinct_places,
    draw_numbers,
    mask_of,
    rows_of,
)
from vitlens.planted.stream import Stream
from vitlens.planted.weights import DEPTH, NEURONS, SHARPNESS, Head, Neuron

ATTRIBUTES = ("shape", "colour")
# As many values of each attribute as classes: with one attribute known, every class is still equally likely.
VALUES = N_CLASSES
SEEN = {"shape mark": 1, "shape": VALUES, "colour mark": 1, "colour": VALUES, **CLUTTER}
HELD = {"found shape": VALUES, "found colour": VALUES, "answer": N_CLASSES}
LURES = ("shape mark", "colour mark", "class token", "tag", "texture")
KINDS = ("shape", "shape mark", "colour", "colour mark")
# A neuron's input is STEEPNESS times what was found of its pair beyond THRESHOLD: about 10 for both of them, −4 for one.
STEEPNESS = 14.0
THRESHOLD = 1.3


def memory_neuron(stream: Stream, shape: int, colour: int) -> Neuron:
    """Fires if this shape and this colour were both found, and then writes their class."""
    both = stream.read("found shape")[shape] + stream.read("found colour")[colour]
    reads = STEEPNESS * (both - THRESHOLD * stream.unit[0])
    return Neuron(reads, stream["answer"][(shape + colour) % N_CLASSES] / (STEEPNESS * (2 - THRESHOLD)))


def memory_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    """Two heads, in any blocks, and the memory in the MLP of the later one's block or of one behind."""
    places = draw_heads(len(ATTRIBUTES), generator)
    heads = {
        place: Head(stream.unit, SHARPNESS * stream.read(f"{name} mark"), stream.read(name), stream[f"found {name}"])
        for place, name in zip(places, ATTRIBUTES, strict=True)
    }
    block = draw_between(max(place[0] for place in places), DEPTH - 1, generator)
    indices = torch.randperm(NEURONS, generator=generator)[: VALUES**2].tolist()
    neurons = {(block, index): memory_neuron(stream, *divmod(pair, VALUES)) for pair, index in enumerate(indices)}
    names = [name_of(place) for place in places]
    edges = {edge for name in names for edge in (f"input->{name}<k>", f"input->{name}<v>", f"{name}->L{block} mlp")}
    truth = PlantedTruth(
        heads=frozenset(heads), edges=frozenset(edges | {f"L{block} mlp->logits"}), neurons=frozenset(neurons)
    )
    return WrittenParts(heads, truth, neurons)


def memory_scenes(n: int, generator: torch.Generator) -> ScenePairs:
    """A marked shape and a marked colour, and every other shape and colour unmarked on patches of their own.

    One attribute changes at its place, or its mark moves to another of its kind.
    """
    scene = Scene.cluttered(SEEN, n, generator)
    corrupted_kinds = dict(zip(KINDS, (rows_of(kind, len(KINDS), n) for kind in range(len(KINDS))), strict=True))
    places = distinct_places(n, 2 * VALUES, generator)
    found, exchanges, after = [], [], []
    labels, others = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    for attribute, spots in zip(ATTRIBUTES, places.split(VALUES, dim=1), strict=True):
        mark = f"{attribute} mark"
        value = draw_numbers(n, VALUES, generator)
        values = (value[:, None] + torch.arange(VALUES)) % VALUES
        rival = 1 + draw_numbers(n, VALUES - 1, generator)
        here, there, other = spots[:, 0], column_of(spots, rival), column_of(values, rival)
        scene.put(Spot(here, mark), generator)
        for i in range(VALUES):
            scene.put(Spot(spots[:, i], attribute, values[:, i]), generator)
        exchanges.append((corrupted_kinds[attribute], Spot(here, attribute, value), Spot(here, attribute, other)))
        exchanges.append((corrupted_kinds[mark], Spot(here, mark), Spot(there, mark)))
        found.append(here)
        after.append(here.clone())
        after[-1][corrupted_kinds[mark]] = there[corrupted_kinds[mark]]
        changed = torch.cat([corrupted_kinds[attribute], corrupted_kinds[mark]])
        labels, others = labels + value, others + value
        others[changed] += (other - value)[changed]
    corrupted = scene.copy()
    for exchange in exchanges:
        corrupted.exchange(*exchange)
    return ScenePairs(
        scene,
        corrupted,
        labels % N_CLASSES,
        others % N_CLASSES,
        mask_of(*found),
        mask_of(*after),
        alternate(KINDS, n),
    )


CONJUNCTION_MEMORY = Mechanism(
    "Two heads bring the marked shape and the marked colour to the class token; there the neuron of that pair fires and "
    "writes the class. Each attribute alone leaves all classes equally likely. The truth is both heads and the memory.",
    SEEN,
    HELD,
    LURES,
    memory_circuit,
    memory_scenes,
)
