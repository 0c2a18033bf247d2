"""A planted model whose residual stream is a sparse code that is known: for dictionaries, which should find it again."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.planted.idle import write_blocks
from vitlens.planted.mechanism import draw_between
from vitlens.planted.scenes import (
    CHANNELS,
    GRID,
    N_CLASSES,
    N_PATCHES,
    PATCH,
    PIXEL_NOISE,
    draw_patterns,
    drawn_by_seed,
)
from vitlens.planted.stream import D_MODEL, Stream
from vitlens.planted.weights import (
    DEPTH,
    HEADS,
    NEURONS,
    Head,
    Neuron,
    Place,
    architecture,
    empty_module,
    random_rows,
    scatter_dust,
    write_classifier,
    write_embedding,
)

# A block has run before it, whose heads and neurons have written into the rest of the stream.
FIRST = 1
HOOK = f"blocks.{FIRST}.hook_resid_pre"
# What every token carries: about twice as long as the code of a patch. LayerNorm's scale then varies from patch to patch.
CODE_CONSTANT = 4.0
# The room of what MLPs write for the features.
WRITTEN_WIDTH = 16
# What a head can carry: the stream's idle directions are at least as many.
LARGEST_WIDTH = D_MODEL - 3 - WRITTEN_WIDTH - N_CLASSES - D_MODEL // HEADS
MOST_FEATURES = CHANNELS * PATCH**2
# Patterns of cells two pixels wide, while there are enough of them.
MOST_COARSE = MOST_FEATURES // 4
# A neuron's input is at least this far from 0 on either side, where the constant alone sets LayerNorm's scale.
CLEARANCE = 20.0
VOTE = 4.0
# Positions, idle heads and idle neurons write this much of what they write in the other planted models: at the hook about a
# tenth of the variance is theirs.
LOUDNESS = 0.5


@dataclass(frozen=True)
class FeaturePictures:
    """Pictures as the model reads them, and which features are on in each token and how strongly; 0 where one is off.

    The class token comes first and has no features.
    """

    images: Float[Tensor, "image channels height width"]
    strengths: Float[Tensor, "image token feature"]


@dataclass(frozen=True)
class PlantedFeatures:
    """A vision transformer whose stream holds known features: at `hook` a token is Σ strength · direction, and a rest.

    The rest lies in other dimensions, orthogonal to all directions: a constant, the position, and what heads and neurons
    without a task have written.

    `directions` have length 1. They are orthogonal if there is room, and overlap if there are more features than dimensions
    (superposition). `frequencies` are the shares of patches in which each feature is on.

    `written` is what the MLP of each block from there on writes for a feature that is on, up to a factor: by block. It is
    what the true transcoder of a block decodes to, and what the true cross-layer transcoder does in all of them. No neuron
    can read a feature that overlaps with others: `written` is empty then. A head of the last block reads all features along
    their directions, feature i as a vote for class i modulo 4.
    """

    model: HookedViT
    hook: str
    directions: Float[Tensor, "feature d"]
    frequencies: Float[Tensor, "feature"]
    written: dict[int, Float[Tensor, "feature d"]]
    draw: Callable[[int, torch.Generator], FeaturePictures] = field(repr=False)

    def pictures(self, n: int, seed: int = 0) -> FeaturePictures:
        """`n` pictures, drawn by `seed` alone.

        Raises:
            InputError: fewer than one picture.
        """
        return drawn_by_seed(self.draw, n, seed)


@checked
def planted_features(
    n_features: int = 48,
    *,
    width: int = 24,
    n_active: int | float = 4,
    zipf: int | float = 0,
    magnitudes: tuple[int | float, int | float] = (0.5, 1.5),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PlantedFeatures:
    """A planted model whose residual stream is a sparse code that is known.

    A picture's patch is a sum of patterns of pixels, one for each feature that is on. Patterns are orthogonal, and the patch
    embedding turns each into its feature's direction in the stream. Features are on independently of each other.

    Args:
        n_features: up to 192, as many as a patch has values (8 × 8 pixels of 3 colours). More of them than `width` overlap.
        width: in how many of the stream's 64 dimensions the features lie, up to 25.
        n_active: how many features are on in a patch, on average.
        zipf: the i-th feature is on in proportion to 1 / i^zipf; 0: all are on equally often.
        magnitudes: the least and the largest strength of a feature that is on; strengths between them are equally likely.
        seed: draws directions, patterns, and what the idle components do.
        dtype: of the weights and pictures; everything is drawn in float64, so that the model is the same in any.

    Returns:
        PlantedFeatures: the model, the directions, and pictures with the strength of each feature in each token.

    Raises:
        InputError: a number that is too small or too large; a feature that would have to be on more than always.

    Source: Sharkey et al. 2022 (toy data of known features); Elhage et al. 2022 (superposition).

    Examples:
        >>> vit = planted_features(12)
        >>> pictures = vit.pictures(2)
        >>> stream = vit.model.run_with_cache(pictures.images)[1][vit.hook]
        >>> read = stream @ vit.directions.float().T
        >>> bool((read - pictures.strengths).abs().max() < 1e-5)
        True
    """
    shares = torch.arange(1, n_features + 1, dtype=torch.float64).pow(-zipf)
    frequencies = n_active * shares / shares.sum()
    check_code(n_features, width, frequencies, magnitudes)
    generator = torch.Generator().manual_seed(zlib.crc32(f"features {seed}".encode()))
    held = {"written": WRITTEN_WIDTH, "answer": N_CLASSES}
    stream = Stream({"code": width}, held, generator, constant=CODE_CONSTANT)
    patterns = draw_patterns(n_features, generator, cell=2 if n_features <= MOST_COARSE else 1)
    inside = draw_directions(n_features, width, generator)
    reads, directions = inside @ stream.read("code"), inside @ stream["code"]
    blocks = range(FIRST, DEPTH) if n_features <= width else range(0)
    written = {block: draw_directions(n_features, WRITTEN_WIDTH, generator) @ stream["written"] for block in blocks}
    neurons = feature_neurons(stream, reads, written, magnitudes[0] / 2, generator)
    module = empty_module("features")
    write_embedding(module, stream, patterns, directions, generator, loudness=LOUDNESS)
    voting = voting_head(stream, reads)
    heads = {(DEPTH - 1, draw_between(0, HEADS - 1, generator)): voting}
    write_blocks(module, stream, ("class token", "code"), heads, neurons, generator, loudness=LOUDNESS)
    write_classifier(module, stream)
    scatter_dust(module, generator, spared=torch.cat([stream["code"], stream["written"]]))
    model = HookedViT.from_timm(module.to(dtype).requires_grad_(True))
    model.architecture = partial(architecture, "features")

    def draw(n: int, of_pictures: torch.Generator) -> FeaturePictures:
        return draw_feature_pictures(patterns, frequencies, magnitudes, n, of_pictures, dtype)

    return PlantedFeatures(model, HOOK, directions, frequencies, written, draw)


def check_code(
    n_features: int, width: int, frequencies: Float[Tensor, "feature"], magnitudes: tuple[float, float]
) -> None:
    """Raises InputError if there is no such code."""
    if n_features > MOST_FEATURES:
        raise InputError(f"n_features is at most {MOST_FEATURES}, not {n_features}: a patch has as many values")
    if not 1 <= width <= LARGEST_WIDTH:
        raise InputError(f"width is from 1 to {LARGEST_WIDTH}, not {width}: the rest of the stream is needed elsewhere")
    if not 0 < frequencies.min() <= frequencies.max() <= 1:
        raise InputError(
            f"the most frequent feature would be on in {float(frequencies.max()):.3g} of a patch: n_active is above 0 and "
            "small enough that no feature is on more than always"
        )
    if not 0 < magnitudes[0] <= magnitudes[1]:
        raise InputError(f"magnitudes are the least and the largest strength, both above 0, not {magnitudes}")


def draw_directions(n: int, width: int, generator: torch.Generator) -> Float[Tensor, "{n} {width}"]:
    """Random directions of length 1: orthogonal if there is room for them."""
    if n > width:
        return random_rows(n, width, generator)
    return torch.linalg.qr(torch.randn(width, n, generator=generator, dtype=torch.float64)).Q.T


def feature_neurons(
    stream: Stream,
    reads: Float[Tensor, "feature d"],
    written: Mapping[int, Float[Tensor, "feature d"]],
    threshold: float,
    generator: torch.Generator,
) -> dict[Place, Neuron]:
    """A neuron for each feature: it fires if the feature is on, and writes what that block writes for it."""
    steepness = CLEARANCE / threshold
    fires = steepness * (reads - threshold * stream.unit)
    neurons: dict[Place, Neuron] = {}
    for block, directions in written.items():
        indices = torch.randperm(NEURONS, generator=generator)[: len(reads)].tolist()
        for index, row, direction in zip(indices, fires, directions, strict=True):
            neurons[block, index] = Neuron(row, direction / steepness)
    return neurons


def voting_head(stream: Stream, reads: Float[Tensor, "feature d"]) -> Head:
    """Attends to all tokens alike; each feature votes for its class."""
    nothing = torch.zeros_like(stream.unit)
    votes = torch.stack([reads[kind::N_CLASSES].sum(dim=0) for kind in range(N_CLASSES)])
    return Head(nothing, nothing, VOTE * votes, stream["answer"])


def draw_feature_pictures(
    patterns: Float[Tensor, "feature channels y x"],
    frequencies: Float[Tensor, "feature"],
    magnitudes: tuple[float, float],
    n: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> FeaturePictures:
    """Features become pixels, with noise in what the patterns leave free: they can be read from the pixels exactly."""
    size = n, N_PATCHES, len(patterns)
    is_on = torch.rand(size, generator=generator, dtype=torch.float64) < frequencies
    low, high = magnitudes
    strengths = is_on * (low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64))
    noise = PIXEL_NOISE * torch.randn(n, N_PATCHES, *patterns.shape[1:], generator=generator, dtype=torch.float64)
    seen = einsum(noise, patterns, "i t c y x, f c y x -> i t f") / patterns[0].square().sum()
    patches = noise + einsum(strengths - seen, patterns, "i t f, f c y x -> i t c y x")
    return FeaturePictures(
        rearrange(patches, "i (r s) c y x -> i c (r y) (s x)", r=GRID).to(dtype),
        torch.cat([torch.zeros(n, 1, len(patterns)).to(strengths), strengths], dim=1).to(dtype),
    )
