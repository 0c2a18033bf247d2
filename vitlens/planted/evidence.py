"""A planted model: one head copies the class glyph of the marked patch; alone, with a backup, or with an outlier token."""

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.planted.mechanism import Mechanism, WrittenParts, draw_between, draw_head, name_of
from vitlens.planted.planted_vit import PlantedTruth
from vitlens.planted.scenes import (
    CLUTTER,
    CORNERS,
    INSIDE,
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
from vitlens.planted.stream import CONSTANT, Stream
from vitlens.planted.weights import DEPTH, NEURONS, SHARPNESS, Head, Neuron, Place

SEEN = {"mark": 1, "glyph": N_CLASSES, **CLUTTER}
HELD = {"answer": N_CLASSES}
LURES = ("mark", "class token", "tag", "texture")
# Two unmarked glyphs of each class that is not the label: counting glyphs would vote against the label.
DECOYS = 2 * (N_CLASSES - 1)
KINDS = ("glyph", "mark")
REGISTER_NEURONS = 3
# The large token's norm in units of that of the other tokens.
LARGE = 15.0


def copy_evidence(stream: Stream) -> Head:
    """Attends to the mark; writes the answer that belongs to the glyph there."""
    return Head(stream.unit, SHARPNESS * stream.read("mark"), stream.read("glyph"), stream["answer"])


def evidence_edges(head: Place) -> frozenset[str]:
    """The key carries where the mark is, the value which glyph is there."""
    name = name_of(head)
    return frozenset({f"input->{name}<k>", f"input->{name}<v>", f"{name}->logits"})


def copying_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    head = draw_head(0, DEPTH - 1, generator)
    truth = PlantedTruth(heads=frozenset({head}), edges=evidence_edges(head))
    return WrittenParts({head: copy_evidence(stream)}, truth)


def backup_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    """The backup looks for the mark too, but an answer that is already written draws it to the class token instead.

    There it finds nothing but the class token's own feature, and writes that as an idle head would.
    """
    primary = draw_head(0, DEPTH - 2, generator)
    backup = draw_head(primary[0] + 1, DEPTH - 1, generator)
    copying = copy_evidence(stream)
    answered = stream.read("answer").sum(dim=0, keepdim=True)
    yielding = Head(
        query=torch.cat([copying.query, answered]),
        key=torch.cat([copying.key, 2 * SHARPNESS * stream.read("class token")]),
        value=torch.cat([copying.value, stream.read("class token")]),
        output=torch.cat([copying.output, stream["idle"][:1]]),
    )
    truth = PlantedTruth(
        heads=frozenset({primary, backup}),
        edges=evidence_edges(primary),
        backups=frozenset({backup}),
        backup_edges=evidence_edges(backup) | {f"{name_of(primary)}->{name_of(backup)}<q>"},
    )
    return WrittenParts({primary: copying, backup: yielding}, truth)


def distractor_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    """In an earlier block a few neurons blow up the token of the patch with the trigger; they are no part of the truth."""
    block = draw_between(0, 1, generator)
    head = draw_head(block + 1, DEPTH - 1, generator)
    indices = torch.randperm(NEURONS, generator=generator)[:REGISTER_NEURONS].tolist()
    fires = 10 * (stream.read("trigger")[0] - 0.5 * stream.unit[0])
    writes = LARGE * CONSTANT / (5 * REGISTER_NEURONS) * stream["large"][0]
    neurons = {(block, index): Neuron(fires, writes) for index in indices}
    truth = PlantedTruth(heads=frozenset({head}), edges=evidence_edges(head), register_neurons=frozenset(neurons))
    return WrittenParts({head: copy_evidence(stream)}, truth, neurons)


def put_evidence(
    scene: Scene, places: Int[Tensor, "image place"], labels: Int[Tensor, "image"], generator: torch.Generator
) -> Int[Tensor, "image decoy"]:
    """The mark and the label's glyph at the first place, an unmarked glyph at each other one; returns the unmarked ones."""
    evidence, decoys = places[:, 0], places[:, 1:]
    scene.put(Spot(evidence, "mark"), generator)
    scene.put(Spot(evidence, "glyph", labels), generator)
    decoy_glyphs = (labels[:, None] + 1 + torch.arange(DECOYS) % (N_CLASSES - 1)) % N_CLASSES
    for i in range(DECOYS):
        scene.put(Spot(decoys[:, i], "glyph", decoy_glyphs[:, i]), generator)
    return decoy_glyphs


def evidence_scenes(n: int, generator: torch.Generator, *, with_trigger: bool) -> ScenePairs:
    """The evidence changes its glyph, or the mark moves to a decoy's patch.

    With a trigger one corner carries that pattern, and the mechanism's patches keep off the corners: a token that is blown
    up in one picture and put into another by an ablation then never lands on the evidence, which it would drown.
    """
    scene = Scene.cluttered(SEEN | ({"trigger": 1} if with_trigger else {}), n, generator)
    places = distinct_places(n, 1 + DECOYS, generator, INSIDE if with_trigger else None)
    evidence, decoys = places[:, 0], places[:, 1:]
    labels = draw_numbers(n, N_CLASSES, generator)
    decoy_glyphs = put_evidence(scene, places, labels, generator)
    if with_trigger:
        scene.put(Spot(distinct_places(n, 1, generator, CORNERS)[:, 0], "trigger"), generator)
    rival = draw_numbers(n, DECOYS, generator)
    moved, others = column_of(decoys, rival), column_of(decoy_glyphs, rival)
    changed_glyph, changed_mark = (rows_of(kind, len(KINDS), n) for kind in range(len(KINDS)))
    corrupted = scene.copy()
    corrupted.exchange(changed_glyph, Spot(evidence, "glyph", labels), Spot(evidence, "glyph", others))
    corrupted.exchange(changed_mark, Spot(evidence, "mark"), Spot(moved, "mark"))
    read_after = evidence.clone()
    read_after[changed_mark] = moved[changed_mark]
    return ScenePairs(scene, corrupted, labels, others, mask_of(evidence), mask_of(read_after), alternate(KINDS, n))


EVIDENCE_COPYING = Mechanism(
    "One head attends to the marked patch and copies its class glyph to the class token; glyphs without the mark do not "
    "count. The truth is that head alone.",
    SEEN,
    HELD,
    LURES,
    copying_circuit,
    partial(evidence_scenes, with_trigger=False),
)
BACKUP_HEAD = Mechanism(
    "A primary head copies the marked patch's class glyph; a backup head of a later block does so only while the primary "
    "writes no answer (set to zero), and else rests on the class token. An answer that is wrong, or a mean over classes, "
    "is an answer: the backup does not repair it.",
    SEEN,
    HELD,
    LURES,
    backup_circuit,
    partial(evidence_scenes, with_trigger=False),
)
LARGE_DISTRACTOR = Mechanism(
    "One head copies the marked patch's class glyph, as in evidence_copying; besides, three neurons blow one patch's token "
    "up, idle heads of the later blocks attend to it, and it has no effect on the class.",
    SEEN | {"trigger": 1},
    HELD | {"large": 1},
    LURES,
    distractor_circuit,
    partial(evidence_scenes, with_trigger=True),
)
