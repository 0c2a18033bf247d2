"""Fashion in context: garments on textured backgrounds, so that object and context are both known exactly.

A garment of Fashion-MNIST (Xiao et al. 2017) stands at a random place and scale on a 56 × 56 canvas whose background is
one of ten procedural textures, one per class. Who chooses the texture decides whether the context agrees with the object.
Everything is drawn from one seeded generator, so a seed is a data set.
"""

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TEXTURE_NAMES = (
    "horizontal stripes",
    "vertical stripes",
    "rising diagonals",
    "dots",
    "checkerboard",
    "rings",
    "falling diagonals",
    "thin grid",
    "soft clouds",
    "pixel noise",
)
CANVAS = 56
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Garments:
    """Fashion-MNIST as tensors: grey values, the filled silhouette of each garment, and its class."""

    images: UInt8[Tensor, "n 28 28"]
    silhouettes: Bool[Tensor, "n 28 28"]
    labels: Int[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Int[Tensor, "chosen"]) -> "Garments":
        """The garments at these indices."""
        return Garments(self.images[index], self.silhouettes[index], self.labels[index])


@dataclass(frozen=True)
class Pictures:
    """Pictures with their truth: where the garment is, and which class's texture lies behind it."""

    images: UInt8[Tensor, "n 3 56 56"]
    labels: Int[Tensor, "n"]
    masks: Bool[Tensor, "n 56 56"]
    contexts: Int[Tensor, "n"]


def load_garments(split: str, folder: str | Path | None = None) -> Garments:
    """Reads Fashion-MNIST from its IDX files.

    Args:
        split: "train" (60,000 garments) or "test" (10,000).
        folder: where the four IDX files are, gzipped or not; by default where Debian's package
            `dataset-fashion-mnist` puts them.

    Raises:
        FileNotFoundError: the files are not there.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    folder = Path(folder) if folder is not None else DEBIAN_FOLDER
    images = torch.from_numpy(_read_idx(folder, f"{prefix}-images-idx3-ubyte"))
    labels = torch.from_numpy(_read_idx(folder, f"{prefix}-labels-idx1-ubyte")).long()
    filled = np.stack([ndimage.binary_fill_holes(picture) for picture in (images > 8).numpy()])
    return Garments(images, torch.from_numpy(filled), labels)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    for path, opener in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.exists():
            with opener(path, "rb") as file:
                data = file.read()
            n_dims = data[3]
            shape = np.frombuffer(data, dtype=">i4", count=n_dims, offset=4)
            return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * n_dims).reshape(shape).copy()
    raise FileNotFoundError(
        f"no {name}[.gz] in {folder}: install Debian's package dataset-fashion-mnist "
        "or name the folder that holds the four IDX files"
    )


def agreeing_contexts(labels: Int[Tensor, "n"], share: float, generator: torch.Generator) -> Int[Tensor, "n"]:
    """The texture of each picture: its own class's for about `share` of them, any of the ten for the rest."""
    agree = torch.rand(len(labels), generator=generator) < share
    return torch.where(agree, labels, torch.randint(len(CLASS_NAMES), labels.shape, generator=generator))


def conflicting_contexts(labels: Int[Tensor, "n"], generator: torch.Generator) -> Int[Tensor, "n"]:
    """A texture of another class for every picture, uniformly chosen among the nine."""
    n_classes = len(CLASS_NAMES)
    return (labels + torch.randint(1, n_classes, labels.shape, generator=generator)) % n_classes


@dataclass(frozen=True)
class Placement:
    """Where the garments go: side of the pasted square in pixels, its upper left corner, mirrored or not."""

    side: Float[Tensor, "n"]
    left: Float[Tensor, "n"]
    top: Float[Tensor, "n"]
    mirrored: Bool[Tensor, "n"]

    @classmethod
    def draw(cls, n: int, generator: torch.Generator) -> "Placement":
        def uniform() -> Tensor:
            return torch.rand(n, generator=generator)

        side = 30 + 16 * uniform()
        return cls(side, (CANVAS - side) * uniform(), (CANVAS - side) * uniform(), uniform() < 0.5)


def compose(
    garments: Garments,
    placement: Placement,
    backgrounds: Float[Tensor, "n 3 56 56"],
    contexts: Int[Tensor, "n"],
) -> Pictures:
    """Pastes each garment on its background; the mask is exactly the set of pixels it covers."""
    scale = CANVAS / placement.side
    centre_x = 2 * (placement.left + placement.side / 2) / CANVAS - 1
    centre_y = 2 * (placement.top + placement.side / 2) / CANVAS - 1
    flip = torch.where(placement.mirrored, -1.0, 1.0)
    zero = torch.zeros_like(scale)
    theta = torch.stack(
        [
            torch.stack([flip * scale, zero, -flip * scale * centre_x], dim=-1),
            torch.stack([zero, scale, -scale * centre_y], dim=-1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [len(theta), 1, CANVAS, CANVAS], align_corners=False)
    layers = torch.stack([garments.images / 255.0, garments.silhouettes.float()], dim=1)
    grey, covered = F.grid_sample(layers, grid, align_corners=False).unbind(dim=1)
    mask = covered > 0.5
    images = torch.where(mask[:, None], 0.1 + 0.9 * grey[:, None], backgrounds)
    return Pictures((images * 255).round().clamp(0, 255).to(torch.uint8), garments.labels, mask, contexts)


def make_pictures(garments: Garments, contexts: Int[Tensor, "n"], generator: torch.Generator) -> Pictures:
    """Garments at random places on the textures that `contexts` names."""
    placement = Placement.draw(len(garments), generator)
    return compose(garments, placement, draw_textures(contexts, generator), contexts)


def draw_plain(n: int, generator: torch.Generator) -> Float[Tensor, "n 3 56 56"]:
    """Backgrounds of one random colour each: a context that says nothing."""
    colours = 0.1 + 0.8 * torch.rand(n, 3, generator=generator)
    return colours[:, :, None, None].expand(n, 3, CANVAS, CANVAS)


def draw_textures(kinds: Int[Tensor, "n"], generator: torch.Generator) -> Float[Tensor, "n 3 56 56"]:
    """One texture per picture, in two random colours, so that structure and not colour tells the kind.

    Every kind varies in frequency, phase and (a little) in angle.
    """
    n = len(kinds)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    axis = torch.linspace(-1, 1, CANVAS)
    y, x = axis[None, :, None], axis[None, None, :]
    tilt = uniform(-0.12, 0.12)
    u, v = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    frequency = uniform(3.5, 6.0) * math.pi
    phase, other_phase = uniform(0.0, 2 * math.pi), uniform(0.0, 2 * math.pi)
    wave_x, wave_y = (frequency * u + phase).sin(), (frequency * v + other_phase).sin()
    rise = (frequency * (u + v) / math.sqrt(2) + phase).sin()
    fall = (frequency * (u - v) / math.sqrt(2) + phase).sin()
    radius = ((x - uniform(-0.7, 0.7)) ** 2 + (y - uniform(-0.7, 0.7)) ** 2).sqrt()
    noise = torch.randn(n, 1, CANVAS, CANVAS, generator=generator)
    clouds = F.interpolate(F.avg_pool2d(noise, 8) * 8, size=(CANVAS, CANVAS), mode="bicubic").squeeze(1)
    patterns = torch.stack(
        [
            wave_y.expand(n, CANVAS, CANVAS),
            wave_x.expand(n, CANVAS, CANVAS),
            rise,
            3 * (wave_x + wave_y - 0.9),
            wave_x * wave_y * 2,
            (frequency * radius + phase).sin(),
            fall,
            6 * (torch.maximum(wave_x, wave_y) - 0.9),
            clouds,
            noise.squeeze(1),
        ],
        dim=1,
    )
    chosen = patterns[torch.arange(n), kinds]
    weight = rearrange(torch.sigmoid(2.5 * chosen), "n h w -> n 1 h w")
    first, second = _two_colours(n, generator)
    return weight * first + (1 - weight) * second


def _two_colours(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A darker and a lighter colour per picture, in random order, far enough apart to show the texture."""
    dark = 0.05 + 0.4 * torch.rand(n, 3, 1, 1, generator=generator)
    light = 0.55 + 0.4 * torch.rand(n, 3, 1, 1, generator=generator)
    swap = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    return torch.where(swap, light, dark), torch.where(swap, dark, light)
