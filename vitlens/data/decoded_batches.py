"""Decodes rows of a picture set into a batch for the model: pictures, labels, object patches; unreadable ones are listed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vitlens.data.imagenet_s import VOID_NUMBER
from vitlens.data.masks import Labels, Masks, preprocessed, read_mask
from vitlens.data.patches import REDUCTIONS, PatchGrid, as_patch_grid, object_and_context
from vitlens.data.picture_sets import PictureRow
from vitlens.data.pictures import load_picture
from vitlens.data.preprocessing import Preprocessing
from vitlens.errors import InputError, printable


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as the model reads them, where their objects and their contexts are by patch (a patch may be neither), and
    their masks by pixel. `keys` are places in the data set."""

    images: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    keys: list[int]
    paths: list[str]
    object_patches: Bool[Tensor, "image patch"] | None
    context_patches: Bool[Tensor, "image patch"] | None
    masks: Masks | None
    skipped: list[Skipped]


def decode_rows(
    rows: Sequence[PictureRow],
    first_key: int,
    preprocessing: Preprocessing,
    grid: PatchGrid | tuple[int, int],
    *,
    with_masks: bool,
    mask_reduction: str = "area",
    workers: int = 4,
) -> PictureBatch | list[Skipped]:
    """Decodes and preprocesses rows in threads; a list of what was skipped where nothing was left.

    Args:
        first_key: the place of the first row in the data set.
        grid: how pictures are cut into patches (`model.patch_grid`), to which masks are reduced after the picture's own
            resizing and cropping.
        mask_reduction: "area": a patch belongs to the object where at least half of it does; "nearest": where the pixel
            at its centre does (as published). See `object_and_context`.

    Raises:
        InputError: a row without a mask if masks are read; an unknown reduction.
    """
    if mask_reduction not in REDUCTIONS:
        raise InputError(f"masks are reduced by {' or '.join(REDUCTIONS)}, not {mask_reduction!r}")

    for row in rows:
        if with_masks and row.get("mask") is None:
            raise InputError(f"{row['path']} has no mask, which this measure needs: name a folder of masks with masks=")

    if with_masks:
        # A preprocessing that masks cannot follow is no fault of the pictures.
        preprocessing.mask(np.ones((16, 16), dtype=np.uint8))

    def decode(row: PictureRow) -> tuple[Tensor, tuple[Tensor, Tensor] | None] | Skipped:
        try:
            picture = _open(row["image"])
            mask = preprocessed(_labels(row, picture.size), preprocessing) if with_masks else None
            return preprocessing.image(picture), mask
        except (InputError, OSError, ValueError, MemoryError) as error:
            return Skipped(row["path"], printable(" ".join(str(error).split()) or type(error).__name__))

    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = list(pool.map(decode, rows))
    read = [(i, item) for i, item in enumerate(decoded) if not isinstance(item, Skipped)]
    skipped = [item for item in decoded if isinstance(item, Skipped)]
    if not read:
        return skipped
    masks = inside = context = None
    if with_masks:
        of_object, void = (torch.stack(parts) for parts in zip(*(item[1] for _, item in read), strict=True))
        masks = Masks(of_object, void)
        inside, context = object_and_context(of_object, void, as_patch_grid(grid, masks.size), mask_reduction)
    return PictureBatch(
        torch.stack([item[0] for _, item in read]),
        torch.tensor([rows[i]["label"] for i, _ in read]),
        [first_key + i for i, _ in read],
        [rows[i]["path"] for i, _ in read],
        inside,
        context,
        masks,
        skipped,
    )


def reduce_mask(
    masks: Bool[Tensor, "image height width"], grid: PatchGrid | tuple[int, int], how: str = "area"
) -> Bool[Tensor, "image patch"]:
    """Which patches belong to the object, of masks without void: see `object_and_context`."""
    patches = as_patch_grid(grid, (masks.shape[-2], masks.shape[-1]))
    return object_and_context(masks, torch.zeros_like(masks), patches, how)[0]


def _open(source: dict[str, Any] | None) -> Image.Image:
    source = source or {}
    content = source.get("bytes")
    if content is None and source.get("path") is None:
        raise InputError("there is no picture in this row")
    return load_picture(Path(source["path"]) if content is None else content)[0]


def _labels(row: PictureRow, size: tuple[int, int]) -> Labels:
    source = row["mask"]
    if row.get("mask_value") is not None:
        mask = _open(source)
        # ImageNet-S writes the class's number into two 8-bit channels.
        channels = np.asarray(mask.convert("RGB")).astype(np.int64)
        numbers = channels[..., 0] + 256 * channels[..., 1]
        labels = Labels(numbers == row["mask_value"], numbers == VOID_NUMBER)
    else:
        content = source.get("bytes")
        labels = read_mask(Path(source["path"]) if content is None else content, row.get("object_id"))
    (height, width), (wide, high) = labels.inside.shape, size
    # A mask may be smaller than its picture, but of the same shape.
    if abs(width * high - height * wide) > max(width, height, wide, high):
        raise InputError(
            f"its mask is {width} × {height} pixels, which is no smaller or larger copy of the picture, {wide} × {high} as "
            "its EXIF tag turns it"
        )
    return labels
