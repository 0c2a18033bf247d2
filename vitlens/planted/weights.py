"""Heads, neurons, embedding and classifier as vectors of the residual stream, written into a timm module."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlens.planted.scenes import GRID, N_CLASSES, PATCH
from vitlens.planted.stream import D_MODEL, Stream

Place = tuple[int, int]
DEPTH = 4
HEADS = 4
NEURONS = 2 * D_MODEL
# What softmax is given for a full match: the 36 other tokens together then get about 0.0002 of the attention.
SHARPNESS = 12.0
# The logit of the class whose answer was written with strength 1; those of the others are 0.
LOGIT = 10.0
# Random weights everywhere, as a share of each matrix' median weight: in a trained model nothing is exactly zero.
DUST = 0.004
# The matrices that write into the stream.
WRITERS = ("patch_embed.proj.weight", "attn.proj.weight", "mlp.fc2.weight")


@dataclass(frozen=True)
class Head:
    """A head in the stream's terms: it attends where query and key match, and rewrites value rows as output rows.

    Queries, keys and values are rows to read with; outputs are directions.
    """

    query: Float[Tensor, "match d"]
    key: Float[Tensor, "match d"]
    value: Float[Tensor, "carried d"]
    output: Float[Tensor, "carried d"]


@dataclass(frozen=True)
class Neuron:
    """A neuron of an MLP: the row it reads with, and what it writes while it fires by 1."""

    reads: Float[Tensor, "d"]
    writes: Float[Tensor, "d"]


def architecture(name: str) -> VisionTransformer:
    """The timm module that all planted models share, as timm initialises it, under this name."""
    module: Any = VisionTransformer(
        img_size=GRID * PATCH,
        patch_size=PATCH,
        embed_dim=D_MODEL,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=NEURONS / D_MODEL,
        num_classes=N_CLASSES,
    )
    module.pretrained_cfg = {
        "architecture": f"planted_{name}",
        "input_size": (3, GRID * PATCH, GRID * PATCH),
        "crop_pct": 1.0,
        # A wide range around grey, so that pixels up to ±8 can be shown.
        "mean": (1 / 2,) * 3,
        "std": (1 / 16,) * 3,
    }
    return module


def empty_module(name: str) -> Any:
    """The architecture in float64 with every weight zero, but for the norms, which only normalise."""
    with torch.random.fork_rng(devices=[]):
        module = architecture(name).eval().double().requires_grad_(False)
    for name, parameter in module.named_parameters():
        parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module


def write_embedding(
    module: Any,
    stream: Stream,
    patterns: Float[Tensor, "pattern channels y x"],
    written: Float[Tensor, "pattern d"],
    generator: torch.Generator,
    *,
    loudness: float = 1.0,
) -> None:
    """A patch becomes the sum of what is written for each pattern on it; positions are random idle vectors."""
    matched = patterns / patterns[0].square().sum()
    constant = stream.constant * stream["constant"][0]
    module.patch_embed.proj.weight.copy_(torch.einsum("pd,pcyx->dcyx", written, matched))
    module.patch_embed.proj.bias.copy_(constant)
    module.cls_token[0, 0] = constant + stream["class token"][0]
    positions = random_rows(module.pos_embed.shape[1], len(stream["idle"]), generator)
    module.pos_embed[0] = loudness * positions @ stream["idle"]


def write_classifier(module: Any, stream: Stream) -> None:
    """A class's logit is how strongly its answer was written."""
    module.head.weight.copy_(LOGIT * stream.read("answer"))


def write_head(module: Any, place: Place, head: Head, generator: torch.Generator) -> None:
    """Writes a head, its inner coordinates turned at random: what it computes does not depend on them."""
    block, index = place
    attn = module.blocks[block].attn
    matching, carrying = (random_rotation(attn.head_dim, generator) for _ in range(2))
    rows = slice(index * attn.head_dim, (index + 1) * attn.head_dim)
    for part, turned in zip(
        attn.qkv.weight.chunk(3),
        (
            matching[:, : len(head.query)] @ head.query / attn.scale,
            matching[:, : len(head.key)] @ head.key,
            carrying[:, : len(head.value)] @ head.value,
        ),
        strict=True,
    ):
        part[rows] = turned
    attn.proj.weight[:, rows] = (carrying[:, : len(head.output)] @ head.output).T


def write_neuron(module: Any, place: Place, neuron: Neuron) -> None:
    """Writes a neuron of an MLP."""
    block, index = place
    module.blocks[block].mlp.fc1.weight[index] = neuron.reads
    module.blocks[block].mlp.fc2.weight[:, index] = neuron.writes


def clear_head(module: Any, place: Place) -> None:
    """A head without any weight: it writes nothing."""
    block, index = place
    attn = module.blocks[block].attn
    rows = slice(index * attn.head_dim, (index + 1) * attn.head_dim)
    for part in attn.qkv.weight.chunk(3):
        part[rows] = 0
    attn.proj.weight[:, rows] = 0


def clear_neuron(module: Any, place: Place) -> None:
    """A neuron without any weight."""
    block, index = place
    module.blocks[block].mlp.fc1.weight[index] = 0
    module.blocks[block].mlp.fc2.weight[:, index] = 0


def scatter_dust(module: Any, generator: torch.Generator, spared: Float[Tensor, "direction d"] | None = None) -> None:
    """Adds a little noise to every matrix, so that no effect anywhere is exactly zero.

    Nothing more is written along the orthonormal directions `spared`.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim in (2, 4):
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if spared is not None and name.endswith(WRITERS):
                noise -= torch.tensordot(spared.T @ spared, noise, dims=1)
            parameter += DUST * parameter.abs().median() * noise


def random_rotation(size: int, generator: torch.Generator) -> Float[Tensor, "{size} {size}"]:
    """A random orthogonal matrix."""
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def random_rows(n: int, size: int, generator: torch.Generator) -> Float[Tensor, "{n} {size}"]:
    """Random rows of length 1."""
    rows = torch.randn(n, size, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)
