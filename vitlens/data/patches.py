"""Maps pixels to patches and back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Num, Shaped
from torch import Tensor

from vitlens.errors import InputError


@dataclass(frozen=True)
class PatchGrid:
    """How a model cuts a picture into patches, row by row from the upper left.

    `grid` counts rows and columns, `patch_size` is the height and width of a patch in pixels. Where patches do not fill the
    picture (384 pixels by patches of 14), the rest at its right and lower edge is not read; where they stick out of it
    ("dynamic_img_pad"), the model adds zeros there.
    """

    grid: tuple[int, int]
    patch_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what all patches cover, in pixels."""
        return self.grid[0] * self.patch_size[0], self.grid[1] * self.patch_size[1]

    def fit(
        self, pixels: Shaped[Tensor, "*batch height width"]
    ) -> Shaped[Tensor, "*batch covered_height covered_width"]:
        """The pixels that the patches cover: what is not read is cut off, what the model adds is 0."""
        height, width = pixels.shape[-2:]
        # A negative padding cuts.
        return F.pad(pixels, (0, self.size[1] - width, 0, self.size[0] - height))

    def sums(self, pixels: Num[Tensor, "*batch height width"]) -> Num[Tensor, "*batch rows columns"]:
        """The sum over the pixels of each patch; pixels of no patch are left out."""
        rows, columns = self.grid
        down, across = self.patch_size
        return self.fit(pixels).unflatten(-1, (columns, across)).unflatten(-3, (rows, down)).sum(dim=(-3, -1))

    def pixels_of(
        self, patches: Bool[Tensor, "*batch rows columns"], height: int, width: int
    ) -> Bool[Tensor, "*batch height width"]:
        """The pixels of these patches, in pictures of this size."""
        spread = patches.repeat_interleave(self.patch_size[0], dim=-2).repeat_interleave(self.patch_size[1], dim=-1)
        return F.pad(spread, (0, width - spread.shape[-1], 0, height - spread.shape[-2]))

    def centres(self, pixels: Bool[Tensor, "*batch height width"]) -> Bool[Tensor, "*batch rows columns"]:
        """The pixel at each patch's centre, the lower right one of those around it; of a patch that sticks out of the
        picture at most the last pixel that is in it."""
        rows, columns = (
            (torch.arange(n, device=pixels.device) * side + side // 2).clamp(max=length - 1)
            for n, side, length in zip(self.grid, self.patch_size, pixels.shape[-2:], strict=True)
        )
        return pixels[..., rows[:, None], columns]


def as_patch_grid(grid: PatchGrid | tuple[int, int], size: tuple[int, int]) -> PatchGrid:
    """How pictures of this size are cut, where only the rows and columns of patches may be known.

    Raises:
        InputError: patches of several sizes leave less than a row or a column of patches unread, and none fills the picture.
    """
    if isinstance(grid, PatchGrid):
        return grid
    return PatchGrid(grid, (_side(size[0], grid[0]), _side(size[1], grid[1])))


def _side(length: int, n: int) -> int:
    if length % n == 0:
        return length // n
    fitting = range(length // (n + 1) + 1, length // n + 1)
    if len(fitting) != 1:
        raise InputError(
            f"{n} patches in {length} pixels may be of {' or '.join(map(str, fitting)) or 'no size'}: pass "
            "model.patch_grid(height, width)"
        )
    return fitting[0]


REDUCTIONS = ("area", "nearest")


def object_and_context(
    inside: Bool[Tensor, "image height width"],
    void: Bool[Tensor, "image height width"],
    patches: PatchGrid,
    reduction: str = "area",
) -> tuple[Bool[Tensor, "image patch"], Bool[Tensor, "image patch"]]:
    """Which patches belong to the object, and which to its context; the others are neither.

    Args:
        inside, void: the pixels of the object, and those of which it is not known.
        reduction: "area": a patch of which more than half is void is neither; else it belongs to the object where at least
            half of its other pixels do. "nearest": as the pixel at its centre.

    Raises:
        InputError: an unknown way.
    """
    if reduction not in REDUCTIONS:
        raise InputError(f"masks are reduced by {' or '.join(REDUCTIONS)}, not {reduction!r}")
    if reduction == "nearest":
        of_object, unknown = patches.centres(inside), patches.centres(void)
        return (of_object & ~unknown).flatten(1), (~of_object & ~unknown).flatten(1)
    area = patches.sums(torch.ones_like(inside[:1], dtype=torch.int64))
    unknown = patches.sums(void.long())
    of_object = patches.sums((inside & ~void).long())
    known = 2 * unknown <= area
    belongs = 2 * of_object >= area - unknown
    return (known & belongs).flatten(1), (known & ~belongs).flatten(1)
