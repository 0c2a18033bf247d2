"""From undecoded rows to a batch for the model: pictures, labels, object patches; what cannot be read is noted."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vitlens.data.picture_sets import Row
from vitlens.data.pictures import Preprocessing, patch_share
from vitlens.errors import InputError

MASK_REDUCTIONS = ("area", "nearest")


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as the model reads them, masks of their objects by patch and by pixel. `keys` are places in the data set."""

    images: Float[Tensor, "image channels height width"]
    labels: Int[Tensor, "image"]
    keys: list[int]
    paths: list[str]
    object_patches: Bool[Tensor, "image patch"] | None
    object_pixels: Bool[Tensor, "image height width"] | None
    skipped: list[Skipped]


def decode_rows(
    rows: Sequence[Row],
    first_key: int,
    preprocessing: Preprocessing,
    grid: tuple[int, int],
    *,
    with_masks: bool,
    mask_reduction: str = "area",
    workers: int = 4,
) -> PictureBatch | list[Skipped]:
    """Decodes and preprocesses rows in threads; a list of what was skipped where nothing was left.

    Args:
        first_key: the place of the first row in the data set.
        grid: rows and columns of patches, to which masks are reduced after the picture's own resizing and cropping.
        mask_reduction: "area": a patch belongs to the object where at least half of it does; "nearest": where the pixel
            at its centre does (as published).

    Raises:
        InputError: a row without a mask where masks are asked for; an unknown reduction.
    """
    if mask_reduction not in MASK_REDUCTIONS:
        raise InputError(f"masks are reduced by {' or '.join(MASK_REDUCTIONS)}, not {mask_reduction!r}")

    for row in rows:
        if with_masks and row.get("mask") is None:
            raise InputError(
                f"{row['path']} has no mask, which this measure needs: name a folder of masks with --masks"
            )

    if with_masks:
        # A preprocessing that masks cannot follow is no fault of the pictures.
        preprocessing.mask(np.ones((16, 16), dtype=np.uint8))

    def decode(row: Row) -> tuple[Tensor, Tensor | None] | Skipped:
        try:
            picture = preprocessing.image(_open(row["image"]))
            mask = preprocessing.mask(_object_pixels(row)) if with_masks else None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return Skipped(row["path"], " ".join(str(error).split()) or type(error).__name__)
        return picture, mask

    with ThreadPoolExecutor(max(1, workers)) as pool:
        decoded = list(pool.map(decode, rows))
    read = [(i, item) for i, item in enumerate(decoded) if not isinstance(item, Skipped)]
    skipped = [item for item in decoded if isinstance(item, Skipped)]
    if not read:
        return skipped
    inside = masks = None
    if with_masks:
        masks = torch.stack([item[1] for _, item in read])  # type: ignore[misc]
        inside = reduce_mask(masks, grid, mask_reduction)
    return PictureBatch(
        torch.stack([item[0] for _, item in read]),
        torch.tensor([rows[i]["label"] for i, _ in read]),
        [first_key + i for i, _ in read],
        [rows[i]["path"] for i, _ in read],
        inside,
        masks,
        skipped,
    )


def reduce_mask(
    masks: Bool[Tensor, "image height width"], grid: tuple[int, int], how: str = "area"
) -> Bool[Tensor, "image patch"]:
    """Which patches belong to the object: at least half of the area, or the pixel at the centre."""
    if how == "area":
        return (patch_share(masks, grid) >= 0.5).flatten(1)
    return F.interpolate(masks[:, None].float(), grid, mode="nearest-exact")[:, 0].flatten(1) > 0.5


def _open(source: dict[str, Any]) -> Image.Image:
    image = Image.open(io.BytesIO(source["bytes"]) if source.get("bytes") else source["path"])
    image.load()
    return image


def _object_pixels(row: Row) -> np.ndarray:
    mask = _open(row["mask"])
    if row.get("mask_value") is not None:
        # ImageNet-S writes the class's number into two 8-bit channels.
        channels = np.asarray(mask.convert("RGB")).astype(np.int64)
        return channels[..., 0] + 256 * channels[..., 1] == row["mask_value"]
    array = np.asarray(mask if mask.mode in ("1", "L", "P", "I", "I;16") else mask.convert("L"))
    return array != 0
