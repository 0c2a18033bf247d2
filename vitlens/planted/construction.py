"""From a mechanism's recipe to a planted model."""

import zlib
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT
from vitlens.planted.conjunction import CONJUNCTION_MEMORY
from vitlens.planted.cue import CONTEXT_CUE
from vitlens.planted.evidence import BACKUP_HEAD, EVIDENCE_COPYING, LARGE_DISTRACTOR
from vitlens.planted.idle import write_blocks
from vitlens.planted.mechanism import Mechanism
from vitlens.planted.planted_vit import PlantedPictures, PlantedTruth, PlantedViT
from vitlens.planted.scenes import GRID, PATCH, PIXEL_NOISE, draw_patterns
from vitlens.planted.shortcut import SHORTCUT_HEAD
from vitlens.planted.stream import Stream
from vitlens.planted.weights import (
    architecture,
    clear_head,
    clear_neuron,
    empty_module,
    scatter_dust,
    write_classifier,
    write_embedding,
)

MECHANISMS = {
    "evidence_copying": EVIDENCE_COPYING,
    "context_cue": CONTEXT_CUE,
    "conjunction_memory": CONJUNCTION_MEMORY,
    "backup_head": BACKUP_HEAD,
    "large_distractor": LARGE_DISTRACTOR,
    "shortcut": SHORTCUT_HEAD,
}
PLANTED: tuple[str, ...] = tuple(MECHANISMS)
CLASS_NAMES = [f"class {letter}" for letter in "ABCD"]


def planted(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> PlantedViT:
    """A planted model by name.

    Args:
        name: one of `PLANTED`.
        seed: draws the patterns, which head, block and neuron plays which role, and what the idle components do.
        dtype: of the weights and pictures; everything is drawn in float64, so that the model is the same in any.

    Raises:
        InputError: an unknown name; the nearest ones are listed.
    """
    if name not in MECHANISMS:
        raise InputError(f"no planted model is called {name!r}; the nearest names are {nearest(name, PLANTED)}")
    mechanism = MECHANISMS[name]
    model, truth, patterns = build(name, seed, dtype)

    def draw(n: int, of_pictures: torch.Generator) -> PlantedPictures:
        return draw_pictures(mechanism, patterns, n, of_pictures, dtype)

    def build_repaired() -> HookedViT:
        return build(name, seed, dtype, repaired=True)[0]

    return PlantedViT(name, mechanism.description, model, truth, draw, build_repaired)


def build(
    name: str, seed: int, dtype: torch.dtype, *, repaired: bool = False
) -> tuple[HookedViT, PlantedTruth, Float[Tensor, "pattern channels y x"]]:
    """A model, its truth, and the patterns of its pictures; repaired: without shortcuts and register neurons."""
    mechanism = MECHANISMS[name]
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    stream = Stream(mechanism.seen, mechanism.held, generator)
    patterns = draw_patterns(sum(mechanism.seen.values()), generator)
    circuit = mechanism.circuit(stream, generator)
    module = empty_module(name)
    write_embedding(module, stream, patterns, torch.cat([stream[family] for family in stream.seen]), generator)
    write_blocks(module, stream, mechanism.lures, circuit.heads, circuit.neurons, generator)
    write_classifier(module, stream)
    scatter_dust(module, generator)
    if repaired:
        for head in circuit.truth.shortcuts:
            clear_head(module, head)
        for neuron in circuit.truth.register_neurons:
            clear_neuron(module, neuron)
    model = HookedViT.from_timm(module.to(dtype).requires_grad_(True), class_names=CLASS_NAMES)
    model.architecture = partial(architecture, name)
    return model, circuit.truth, patterns


def draw_pictures(
    mechanism: Mechanism, patterns: torch.Tensor, n: int, generator: torch.Generator, dtype: torch.dtype
) -> PlantedPictures:
    """Scenes become pixels; a pair shares its noise."""
    pairs = mechanism.scenes(n, generator)
    size = GRID * PATCH
    noise = PIXEL_NOISE * torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)
    return PlantedPictures(
        pairs.clean.render(patterns, noise).to(dtype),
        pairs.corrupted.render(patterns, noise).to(dtype),
        pairs.labels,
        pairs.corrupted_labels,
        pairs.patches,
        pairs.corrupted_patches,
        pairs.changed,
        pairs.objects,
    )
