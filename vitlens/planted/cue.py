"""A planted model whose marked cue says which of four keyed patches counts: two heads, one feeding the other."""

import torch

from vitlens.planted.mechanism import Mechanism, WrittenParts, draw_head, name_of
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
from vitlens.planted.weights import DEPTH, SHARPNESS, Head

N_KEYS = 4
SEEN = {"mark": 1, "cue": N_KEYS, "key": N_KEYS, "glyph": N_CLASSES, **CLUTTER}
HELD = {"wanted": N_KEYS, "answer": N_CLASSES}
LURES = ("mark", "class token", "tag", "texture")
KINDS = ("mark", "cue", "key", "glyph")


def cue_circuit(stream: Stream, generator: torch.Generator) -> WrittenParts:
    """The first head says which key is wanted; the second looks for it, and copies the glyph that it finds there."""
    first = draw_head(0, DEPTH - 2, generator)
    second = draw_head(first[0] + 1, DEPTH - 1, generator)
    telling = Head(stream.unit, SHARPNESS * stream.read("mark"), stream.read("cue"), stream["wanted"])
    finding = Head(stream.read("wanted"), SHARPNESS * stream.read("key"), stream.read("glyph"), stream["answer"])
    a, b = name_of(first), name_of(second)
    edges = {f"input->{a}<k>", f"input->{a}<v>", f"{a}->{b}<q>", f"input->{b}<k>", f"input->{b}<v>", f"{b}->logits"}
    truth = PlantedTruth(heads=frozenset({first, second}), edges=frozenset(edges))
    return WrittenParts({first: telling, second: finding}, truth)


def cue_scenes(n: int, generator: torch.Generator) -> ScenePairs:
    """Two cues, one of them marked, and four keyed glyphs. Every change makes the second cue's glyph the label.

    The mark moves to the second cue; the marked cue turns into the second; the two keys change places; or the glyph that
    counts turns into that of the second key.
    """
    scene = Scene.cluttered(SEEN, n, generator)
    places = distinct_places(n, 2 + N_KEYS, generator)
    marked, unmarked, keyed = places[:, 0], places[:, 1], places[:, 2:]
    cue = draw_numbers(n, N_KEYS, generator)
    rival = (cue + 1 + draw_numbers(n, N_KEYS - 1, generator)) % N_KEYS
    glyphs = torch.rand(n, N_CLASSES, generator=generator).argsort(dim=1)
    labels, others = column_of(glyphs, cue), column_of(glyphs, rival)
    target, passed = column_of(keyed, cue), column_of(keyed, rival)
    scene.put(Spot(marked, "mark"), generator)
    scene.put(Spot(marked, "cue", cue), generator)
    scene.put(Spot(unmarked, "cue", rival), generator)
    for i in range(N_KEYS):
        scene.put(Spot(keyed[:, i], "key", i), generator)
        scene.put(Spot(keyed[:, i], "glyph", glyphs[:, i]), generator)
    moves_mark, changes_cue, swaps_keys, changes_glyph = (rows_of(kind, len(KINDS), n) for kind in range(len(KINDS)))
    corrupted = scene.copy()
    corrupted.exchange(moves_mark, Spot(marked, "mark"), Spot(unmarked, "mark"))
    corrupted.exchange(changes_cue, Spot(marked, "cue", cue), Spot(marked, "cue", rival))
    for key in (cue, rival):
        corrupted.exchange(swaps_keys, Spot(target, "key", key), Spot(passed, "key", key))
    corrupted.exchange(changes_glyph, Spot(target, "glyph", labels), Spot(target, "glyph", others))
    cue_after, target_after = marked.clone(), passed.clone()
    cue_after[moves_mark] = unmarked[moves_mark]
    target_after[changes_glyph] = target[changes_glyph]
    return ScenePairs(
        scene,
        corrupted,
        labels,
        others,
        mask_of(marked, target),
        mask_of(cue_after, target_after),
        alternate(KINDS, n),
    )


CONTEXT_CUE = Mechanism(
    "A first head brings the marked cue to the class token; a head of a later block makes its query of it, attends to the "
    "patch with the matching key, and copies that patch's class glyph. The truth is both heads.",
    SEEN,
    HELD,
    LURES,
    cue_circuit,
    cue_scenes,
)
