"""Pictures as tables (which pattern is on which patch, how strongly), and their conversion to pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.errors import InputError

Drawn = TypeVar("Drawn")

GRID = 6
PATCH = 8
CHANNELS = 3
N_PATCHES = GRID * GRID
CORNERS = torch.tensor([0, GRID - 1, N_PATCHES - GRID, N_PATCHES - 1])
INSIDE = torch.tensor([place for place in range(N_PATCHES) if place not in CORNERS])
N_CLASSES = 4
# Every scene holds these, and no circuit reads them: three tags on a patch each, and textures on all patches.
TAGS, TEXTURES = 3, 6
CLUTTER = {"tag": TAGS, "texture": TEXTURES}
TEXTURE_STRENGTH = 0.4
PIXEL_NOISE = 0.3
# Patterns that are put on a patch are this much stronger or weaker than 1.
JITTER = 0.05


@dataclass(frozen=True)
class Spot:
    """An entry of a scene's table, one for each picture: the strength of a member of a family at a place."""

    places: Int[Tensor, "image"]
    family: str
    members: Int[Tensor, "image"] | int = 0


@dataclass(frozen=True)
class Scene:
    """How strongly every pattern shows on every patch of every picture; `first` is each family's first column."""

    first: dict[str, int]
    strengths: Float[Tensor, "image patch pattern"]

    @classmethod
    def cluttered(cls, seen: Mapping[str, int], n: int, generator: torch.Generator) -> "Scene":
        """Pictures of tags and textures only."""
        starts = torch.tensor([0, *seen.values()]).cumsum(0).tolist()
        first = dict(zip(seen, starts, strict=False))
        scene = cls(first, torch.zeros(n, N_PATCHES, starts[-1], dtype=torch.float64))
        textures = torch.randn(n, N_PATCHES, TEXTURES, generator=generator, dtype=torch.float64)
        scene.strengths[:, :, first["texture"] : first["texture"] + TEXTURES] = TEXTURE_STRENGTH * textures
        places = distinct_places(n, TAGS, generator)
        for tag in range(TAGS):
            scene.put(Spot(places[:, tag], "tag", tag), generator)
        return scene

    def put(self, spot: Spot, generator: torch.Generator) -> None:
        """Shows a pattern, a little stronger or weaker than 1."""
        jitter = 2 * torch.rand(len(self.strengths), generator=generator, dtype=torch.float64) - 1
        self.strengths[self._entries(spot)] = 1 + JITTER * jitter

    def copy(self) -> "Scene":
        return replace(self, strengths=self.strengths.clone())

    def exchange(self, rows: Int[Tensor, "row"], one: Spot, other: Spot) -> None:
        """Two entries change places in these pictures: every counterfactual is made of such exchanges."""
        here, there = (tuple(index[rows] for index in self._entries(spot)) for spot in (one, other))
        self.strengths[here], self.strengths[there] = self.strengths[there], self.strengths[here]

    def _entries(self, spot: Spot) -> tuple[Tensor, Tensor, Tensor]:
        images = torch.arange(len(self.strengths))
        return images, spot.places, self.first[spot.family] + torch.as_tensor(spot.members).expand(len(images))

    def render(
        self, patterns: Float[Tensor, "pattern channels y x"], noise: Float[Tensor, "image channels height width"]
    ) -> Float[Tensor, "image channels height width"]:
        """The pictures in pixels."""
        patches = einsum(self.strengths, patterns, "i t p, p c y x -> i t c y x")
        return rearrange(patches, "i (r s) c y x -> i c (r y) (s x)", r=GRID) + noise


@dataclass(frozen=True)
class ScenePairs:
    """Scenes and their counterfactual partners, with what is true of them; `objects` where a context can contradict one."""

    clean: Scene
    corrupted: Scene
    labels: Int[Tensor, "image"]
    corrupted_labels: Int[Tensor, "image"]
    patches: Bool[Tensor, "image patch"]
    corrupted_patches: Bool[Tensor, "image patch"]
    changed: tuple[str, ...]
    objects: Bool[Tensor, "image patch"] | None = None


def pixels_of(patches: Bool[Tensor, "image patch"]) -> Bool[Tensor, "image height width"]:
    """A mask of patches as one of pixels."""
    grid = rearrange(patches, "i (r s) -> i r s", r=GRID)
    return grid.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)


def draw_patterns(n: int, generator: torch.Generator, cell: int = 2) -> Float[Tensor, "pattern channels y x"]:
    """Orthogonal patterns of coloured cells, two pixels wide, so that they can be seen; a pixel's mean square is 1."""
    cells = PATCH // cell
    size = CHANNELS * cells * cells
    spread = torch.randn(size, size, generator=generator, dtype=torch.float64)
    flat = torch.linalg.qr(spread).Q[:n] * size**0.5
    coarse = flat.reshape(n, CHANNELS, cells, cells)
    return coarse.repeat_interleave(cell, dim=-1).repeat_interleave(cell, dim=-2)


def drawn_by_seed(draw: Callable[[int, torch.Generator], Drawn], n: int, seed: int) -> Drawn:
    """`n` pictures as `draw` makes them.

    Raises:
        InputError: fewer than one picture.
    """
    if n < 1:
        raise InputError(f"{n} pictures cannot be drawn: ask for one or more")
    return draw(n, torch.Generator().manual_seed(seed))


def distinct_places(
    n: int, k: int, generator: torch.Generator, among: Int[Tensor, "choice"] | None = None
) -> Int[Tensor, "image {k}"]:
    """`k` different patches for each of `n` pictures, from all or `among` some."""
    choices = torch.arange(N_PATCHES) if among is None else among
    return choices[torch.rand(n, len(choices), generator=generator).argsort(dim=1)[:, :k]]


def draw_numbers(n: int, below: int, generator: torch.Generator) -> Int[Tensor, "image"]:
    """A number from 0 for each of `n` pictures."""
    return torch.randint(below, (n,), generator=generator)


def column_of(table: Int[Tensor, "image column"], columns: Int[Tensor, "image"]) -> Int[Tensor, "image"]:
    """Each picture's own column of a table."""
    return table.gather(1, columns[:, None])[:, 0]


def mask_of(*places: Int[Tensor, "image"]) -> Bool[Tensor, "image patch"]:
    """Where these places are."""
    mask = torch.zeros(len(places[0]), N_PATCHES, dtype=torch.bool)
    return mask.scatter(1, torch.stack(places, dim=1), True)


def rows_of(kind: int, n_kinds: int, n: int) -> Int[Tensor, "row"]:
    """The pictures whose pair is of this kind, where kinds alternate."""
    return torch.arange(min(kind, n), n, n_kinds)


def alternate(kinds: tuple[str, ...], n: int) -> tuple[str, ...]:
    """The kind of each of `n` pairs."""
    return tuple(kinds[i % len(kinds)] for i in range(n))
