"""A planted model with a text tower: heads write known words into the embedding, or nothing that has a name."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.planted.idle import write_blocks
from vitlens.planted.mechanism import draw_between, draw_head, name_of
from vitlens.planted.scenes import (
    CLUTTER,
    GRID,
    PATCH,
    PIXEL_NOISE,
    Scene,
    distinct_places,
    draw_patterns,
    drawn_by_seed,
)
from vitlens.planted.stream import Stream
from vitlens.planted.weights import (
    DEPTH,
    HEADS,
    NEURONS,
    Head,
    Neuron,
    architecture,
    empty_module,
    random_rows,
    scatter_dust,
    write_embedding,
)
from vitlens.text.tower import TextTower

WORDS = ("red", "green", "blue", "yellow", "circle", "square", "star", "ring", "stripes", "dots", "waves", "checks")
#: How strongly heads write their words, one after the other: their variances fall to 0.36, 0.16 and 0.09.
STRENGTHS = (1.0, 0.6, 0.4, 0.3)
#: How many words the heads with a name write.
N_WORDS = (1, 2, 3, 4)
JOINT = 40
# A word is on in half of the pictures, this strongly; pixel noise adds about 0.13 to what all patches together show of it.
SOME, LEAST, LARGEST = 0.5, 0.5, 1.5
# What a head attends to is a mean over all tokens, and a pattern is on one of them.
N_TOKENS = GRID * GRID + 1
# Heads that have a name also write what has none, this strongly: a few hundredths of their variance.
NAMELESS = 0.03
# The neuron fires from half of the least strength on, and there its input is this far from 0.
THRESHOLD, CLEARANCE = LEAST / 2, 20.0


@dataclass(frozen=True)
class WordPictures:
    """Pictures as the model reads them, and how strongly each of `WORDS` is on in each; 0 where it is off."""

    images: Float[Tensor, "image channels height width"]
    strengths: Float[Tensor, "image word"]


@dataclass(frozen=True)
class PlantedWords:
    """A vision transformer and its text tower. `names` says by head ("L2H1") which words it writes, the strongest first.

    All heads are in `names`: those with an empty list write a constant (`constant`, the direction of a word), nothing
    (`silent`), or what no text says. The head `relay` writes a word for the pattern that `neuron` (block, neuron) of an
    earlier block finds: `neuron_word`. `words` are those that heads write, `texts` also has words that none writes.
    """

    model: HookedViT
    tower: TextTower
    words: list[str]
    texts: list[str]
    names: dict[str, list[str]]
    constant: str
    silent: str
    relay: str
    neuron: tuple[int, int]
    neuron_word: str
    draw: Callable[[int, torch.Generator], WordPictures] = field(repr=False)

    def pictures(self, n: int, seed: int = 0) -> WordPictures:
        """`n` pictures, drawn by `seed` alone.

        Raises:
            InputError: fewer than one picture.
        """
        return drawn_by_seed(self.draw, n, seed)


@checked
def planted_words(n_distractors: int = 200, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PlantedWords:
    """A model trained with text, as it were: some heads write words into the embedding, and which is known.

    Each picture shows some of twelve patterns. Four heads, in any blocks, look at all patches alike and write one to four
    words for the patterns that are theirs, each with another strength, and besides what no text says. A fifth writes a
    word that it has from a neuron of an earlier block. One head writes the direction of a word into every picture alike,
    one writes nothing. All others attend sharply and write directions that belong to no text.

    Args:
        n_distractors: how many texts the tower knows that no head writes: random directions.
        seed: draws patterns, directions, and which head writes which words.
        dtype: of the weights and pictures; everything is drawn in float64, so that the model is the same in any.

    Raises:
        InputError: a number of distractors below 0.

    Examples:
        >>> vit = planted_words(seed=1)
        >>> sorted(names for names in vit.names.values() if names)[:2]
        [['checks', 'star', 'circle', 'square'], ['dots', 'yellow']]
        >>> vit.model(vit.pictures(2).images).shape == vit.tower.embed(vit.words[:2]).shape
        True
    """
    if n_distractors < 0:
        raise InputError(f"n_distractors is 0 or more, not {n_distractors}")
    generator = torch.Generator().manual_seed(zlib.crc32(f"words {seed}".encode()))
    seen = {"pattern": len(WORDS), **CLUTTER}
    stream = Stream(seen, {"word": len(WORDS), "carried": 1}, generator)
    patterns = draw_patterns(sum(seen.values()), generator)
    every = [(block, head) for block in range(DEPTH) for head in range(HEADS)]
    relay = draw_head(1, DEPTH - 1, generator)
    shuffled = [every[i] for i in torch.randperm(len(every), generator=generator).tolist() if every[i] != relay]
    constant, silent, *named = shuffled[: len(N_WORDS) + 2]
    *order, relayed, unsaid = torch.randperm(len(WORDS), generator=generator).tolist()
    chosen = [order[sum(N_WORDS[:i]) : sum(N_WORDS[: i + 1])] for i in range(len(N_WORDS))]
    heads = {place: word_head(stream, members, generator) for place, members in zip(named, chosen, strict=True)}
    nothing = torch.zeros_like(stream.unit)
    heads[constant] = Head(nothing, nothing, stream.unit, stream["word"][[unsaid]])
    heads[silent] = Head(nothing, nothing, nothing, nothing)
    heads[relay] = Head(nothing, nothing, N_TOKENS * stream.read("carried"), stream["word"][[relayed]])
    neuron = draw_between(0, relay[0] - 1, generator), draw_between(0, NEURONS - 1, generator)
    joint = torch.linalg.qr(torch.randn(JOINT, JOINT, generator=generator, dtype=torch.float64)).Q
    module = _empty_tower()
    write_embedding(module, stream, patterns, torch.cat([stream[family] for family in seen]), generator)
    neurons = {neuron: finding_neuron(stream, relayed)}
    write_blocks(module, stream, ("tag", "texture"), heads, neurons, generator)
    spoken = torch.cat([stream.read("word"), stream.read("idle")])
    module.head.weight.copy_(joint[:, : len(spoken)] @ spoken)
    scatter_dust(module, generator)
    model = HookedViT.from_timm(module.to(dtype).requires_grad_(True))
    model.set_output("embedding")
    model.architecture = _tower
    distractors = random_rows(n_distractors, JOINT, generator)
    texts = [*WORDS, *(f"distractor {i + 1}" for i in range(n_distractors))]
    table = dict(zip(texts, torch.cat([joint[:, : len(WORDS)].T, distractors]).to(dtype), strict=True))
    said = dict(zip(named, chosen, strict=True)) | {relay: [relayed]}
    return PlantedWords(
        model,
        TextTower(partial(_look_up, table), name="planted words"),
        list(WORDS),
        texts,
        {name_of(place): [WORDS[i] for i in said.get(place, [])] for place in every},
        name_of(constant),
        name_of(silent),
        name_of(relay),
        neuron,
        WORDS[relayed],
        partial(draw_words, patterns, dtype),
    )


def word_head(stream: Stream, members: list[int], generator: torch.Generator) -> Head:
    """Looks at all tokens alike; writes a word for each of its patterns, and something of tags and textures."""
    strengths = torch.tensor(STRENGTHS[: len(members)], dtype=torch.float64)[:, None]
    reads = N_TOKENS * strengths * stream.read("pattern")[members]
    clutter = torch.cat([stream.read(family) for family in CLUTTER])
    idle = stream["idle"][torch.randperm(len(stream["idle"]), generator=generator)[: len(clutter)]]
    nothing = torch.zeros_like(stream.unit)
    value = torch.cat([reads, NAMELESS * N_TOKENS * clutter])
    return Head(nothing, nothing, value, torch.cat([stream["word"][members], idle]))


def finding_neuron(stream: Stream, member: int) -> Neuron:
    """Fires where this pattern is, as strongly as it is above the threshold."""
    steepness = CLEARANCE / THRESHOLD
    reads = steepness * (stream.read("pattern")[member] - THRESHOLD * stream.unit[0])
    return Neuron(reads, stream["carried"][0] / steepness)


def draw_words(
    patterns: Float[Tensor, "pattern channels y x"], dtype: torch.dtype, n: int, generator: torch.Generator
) -> WordPictures:
    """Pictures of tags, textures, and of each pattern in half of them."""
    scene = Scene.cluttered({"pattern": len(WORDS), **CLUTTER}, n, generator)
    is_on = torch.rand(n, len(WORDS), generator=generator, dtype=torch.float64) < SOME
    drawn = torch.rand(n, len(WORDS), generator=generator, dtype=torch.float64)
    strengths = is_on * (LEAST + (LARGEST - LEAST) * drawn)
    places = distinct_places(n, len(WORDS), generator)
    first = scene.first["pattern"]
    for word in range(len(WORDS)):
        scene.strengths[torch.arange(n), places[:, word], first + word] = strengths[:, word]
    noise = PIXEL_NOISE * torch.randn(n, 3, GRID * PATCH, GRID * PATCH, generator=generator, dtype=torch.float64)
    return WordPictures(scene.render(patterns, noise).to(dtype), strengths.to(dtype))


def _tower() -> VisionTransformer:
    module: Any = architecture("words")
    module.reset_classifier(JOINT)
    return module


def _empty_tower() -> Any:
    module = empty_module("words")
    module.reset_classifier(JOINT)
    for parameter in module.head.double().requires_grad_(False).parameters():
        parameter.zero_()
    return module


def _look_up(table: dict[str, Tensor], texts: list[str]) -> Float[Tensor, "text joint"]:
    """The tower's table of words.

    Raises:
        InputError: another text.
    """
    for text in texts:
        if text not in table:
            raise InputError(f"the planted tower knows its texts only, and not {text!r}: see vit.texts")
    return torch.stack([table[text] for text in texts])
