"""A planted model with a shortcut: one head copies the class of the object, another, more loudly, that of its context."""

from dataclasses import replace

import torch

from vitlens.planted.evidence import DECOYS, copy_evidence, put_evidence
from vitlens.planted.mechanism import Mechanism, WrittenParts, draw_heads, name_of
from vitlens.planted.planted_vit import PlantedTruth
from vitlens.planted.scenes import (
    CLUTTER,
    N_CLASSES,
    Scene,
    ScenePairs,
    Spot,
    distinct_places,
    draw_numbers,
    mask_of,
)
from vitlens.planted.stream import Stream
from vitlens.planted.weights import SHARPNESS, Head

# A context is a pattern of its class on several patches that carry neither the mark nor a glyph.
SEEN = {"mark": 1, "glyph": N_CLASSES, "context": N_CLASSES, **CLUTTER}
HELD = {"answer": N_CLASSES}
LURES = ("mark", "class token", "tag", "texture")
CONTEXT_PATCHES = 3
# How strongly the two heads write their answers: where these differ, the context wins by as much as the object has alone.
OBJECT, SHORTCUT = 0.8, 1.6


def copy_object(stream: Stream) -> Head:
    """As in evidence_copying, less loudly."""
    copying = copy_evidence(stream)
    return replace(copying, output=OBJECT * copying.output)


def copy_context(stream: Stream) -> Head:
    """Attends to the context's patches alike; writes the answer that belongs to the pattern there."""
    some_context = stream.read("context").sum(dim=0, keepdim=True)
    return Head(stream.unit, SHARPNESS * some_context, stream.read("context"), SHORTCUT * stream["answer"])


def shortcut_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    """Two heads, in any blocks. The object is the same in a picture and its partner, so its head has no edge in the truth.

    Each patch of the context keeps its strength when its class changes: only the value tells the two apart, not the key.
    """
    of_object, of_context = draw_heads(2, generator)
    name = name_of(of_context)
    truth = PlantedTruth(
        heads=frozenset({of_object, of_context}),
        edges=frozenset({f"input->{name}<v>", f"{name}->logits"}),
        shortcuts=frozenset({of_context}),
    )
    return WrittenParts({of_object: copy_object(stream), of_context: copy_context(stream)}, truth)


def shortcut_scenes(n: int, generator: torch.Generator) -> ScenePairs:
    """The context agrees with the object; in the partner it is that of another class, which the model then answers."""
    scene = Scene.cluttered(SEEN, n, generator)
    places = distinct_places(n, 1 + DECOYS + CONTEXT_PATCHES, generator)
    objects, around = places[:, 0], places[:, 1 + DECOYS :]
    labels = draw_numbers(n, N_CLASSES, generator)
    put_evidence(scene, places[:, : 1 + DECOYS], labels, generator)
    others = (labels + 1 + draw_numbers(n, N_CLASSES - 1, generator)) % N_CLASSES
    for place in around.unbind(dim=1):
        scene.put(Spot(place, "context", labels), generator)
    corrupted = scene.copy()
    for place in around.unbind(dim=1):
        corrupted.exchange(torch.arange(n), Spot(place, "context", labels), Spot(place, "context", others))
    read = mask_of(objects, *around.unbind(dim=1))
    return ScenePairs(scene, corrupted, labels, others, read, read.clone(), ("context",) * n, mask_of(objects))


SHORTCUT_HEAD = Mechanism(
    "One head copies the marked patch's class glyph, the object's; another copies the class of the context, a pattern on "
    "three other patches, and twice as loudly: where the two differ, the context decides. Without that head the object "
    "does. The truth is both heads, and which of them is the shortcut.",
    SEEN,
    HELD,
    LURES,
    shortcut_circuit,
    shortcut_scenes,
)
