"""Reads object masks: one rule for what their values mean, for the API, the command line, data sets and scores.

A mask says of each pixel whether it belongs to the object, to its context, or to neither (void). It is one of:

- bool, {0, 1} or {0, 255}, and {0, 65535} in 16 bits: not 0 is the object.
- Class ids: whole numbers, as in a palette image ("P"). The object is the given id, else every id but 0.
  255 together with other ids is void (PASCAL VOC, COCO), in ids that fit into 8 bits. In images without a palette, 255 may
  also be the white of a mask with soft edges: the other ids must then be below 100, else the values are grey.
- Grey of 8 bits with soft edges, or noise as JPEG leaves it: at least 80 % of the pixels lie within 32 of black or white;
  128 and more is the object.
- Floats in [0, 1]: .5 and more is the object.
- An alpha channel that is not the same everywhere: the opaque half is the object. Otherwise its colours count.
- A colour image of greys alone: as that grey.

All else is refused with what was found: NaN, floats outside [0, 1] such as logits, negative numbers, colours, photographs,
several ids of which none is 0 and none is given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from vitlens.data.pictures import as_list, is_wide, load_picture
from vitlens.data.preprocessing import Preprocessing
from vitlens.errors import InputError

# What masks= may be: masks already read, tensors or arrays at the pictures' size, files and PIL pictures to preprocess.
MaskInput = Union["Masks", Tensor, np.ndarray, str, Path, Image.Image, Sequence[Any]]

VOID = 255
#: 255 together with numbers from here on means white, not void: COCO's ids of things end at 90.
MOST_IDS_BESIDE_VOID = 100
#: A mask of class ids has at most this many different values; a photograph has more.
MOST_IDS = 64
NEAR_END, SHARE_NEAR_ENDS = 32, 0.8
#: JPEG keeps a grey picture's colours equal up to this.
COLOUR_NOISE = 8


class Labels(NamedTuple):
    """For every pixel, whether it belongs to the object, and whether it is void."""

    inside: Bool[np.ndarray, "*image height width"]
    void: Bool[np.ndarray, "*image height width"]


@dataclass(frozen=True)
class Masks:
    """Masks of several pictures: `inside` is the object, `void` neither object nor context; all else is context."""

    inside: Bool[Tensor, "image height width"]
    void: Bool[Tensor, "image height width"]

    def __len__(self) -> int:
        return len(self.inside)

    @property
    def size(self) -> tuple[int, int]:
        return self.inside.shape[-2], self.inside.shape[-1]

    def to(self, device: torch.device) -> "Masks":
        return Masks(self.inside.to(device), self.void.to(device))

    def expand(self, n_images: int) -> "Masks":
        """One mask as that of several pictures."""
        return Masks(self.inside.expand(n_images, -1, -1), self.void.expand(n_images, -1, -1))


def read_mask(mask: object, object_id: int | None = None) -> Labels:
    """Reads object and void pixels of a mask, by the rule of this module.

    Args:
        mask: a path, a PIL picture, or an array or tensor [height, width] or [image, height, width].
        object_id: of class ids, the object's.

    Raises:
        InputError: values that the rule does not cover; a file that is no picture; another shape.
    """
    if object_id is not None and (isinstance(object_id, bool) or not isinstance(object_id, (int, np.integer))):
        raise InputError(f"the object's class id is a whole number, not {object_id!r}")
    if isinstance(mask, Tensor):
        mask = _as_array(mask)
    if isinstance(mask, np.ndarray):
        if mask.ndim not in (2, 3) or mask.size == 0:
            raise InputError(f"a mask has the shape [height, width], this one {mask.shape}")
        return _of_values(mask, object_id)
    image, is_lossy = load_picture(mask, "a mask is a path, a PIL image, an array or a tensor")
    return _of_image(image, is_lossy, object_id)


def preprocessed(
    labels: Labels, preprocessing: Preprocessing
) -> tuple[Bool[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """Resizes and crops one mask as its picture is preprocessed."""
    kept = preprocessing.mask(labels.inside + 2 * labels.void.astype(np.uint8))
    return kept == 1, kept == 2


def as_masks(masks: MaskInput, from_picture: Callable[[Any], Masks]) -> Masks:
    """Reads masks of any kind.

    Args:
        masks: `Masks`; a tensor or array [image, height, width] or [height, width] at the pictures' size; a path or PIL
            picture; or a list of these.
        from_picture: how a path or PIL picture is brought to the pictures' size.

    Raises:
        InputError: as `read_mask`; nothing at all; masks of several sizes.
    """
    if isinstance(masks, Masks):
        return masks
    if isinstance(masks, (str, Path, Image.Image)):
        return from_picture(masks)
    if (
        isinstance(masks, Tensor)
        and masks.dtype == torch.bool
        and masks.layout == torch.strided
        and masks.ndim in (2, 3)
    ):
        inside = masks if masks.ndim == 3 else masks[None]
        return Masks(inside, torch.zeros_like(inside))
    if isinstance(masks, (Tensor, np.ndarray)):
        return Masks(*(torch.from_numpy(np.array(part, ndmin=3)) for part in read_mask(masks)))
    parts = [as_masks(mask, from_picture) for mask in as_list(masks, "masks")]
    if not parts:
        raise InputError("there are no masks in the list")
    sizes = sorted({part.size for part in parts})
    if len(sizes) > 1:
        some = ", ".join(f"{height} × {width}" for height, width in sizes)
        raise InputError(f"the masks of the list have different sizes, {some}: bring each to its picture's size")
    return Masks(torch.cat([part.inside for part in parts]), torch.cat([part.void for part in parts]))


def _as_array(mask: Tensor) -> np.ndarray:
    if mask.layout != torch.strided or mask.is_meta:
        raise InputError("a mask is a dense tensor with values, not a sparse, nested or meta one")
    values = mask.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _of_image(image: Image.Image, is_lossy: bool, object_id: int | None) -> Labels:
    if image.mode in ("RGBA", "LA", "PA"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() != alpha.max():
            _refuse_id(object_id, "an alpha channel")
            return Labels(alpha >= 128, np.zeros_like(alpha, dtype=bool))
        image = image.convert("RGB" if image.mode == "RGBA" else "L")
    if image.mode == "RGB":
        image = _grey(image, COLOUR_NOISE if is_lossy else 0)
    if image.mode == "P":
        if object_id is None:
            _check_palette(image)
        return _of_ids(np.asarray(image), object_id, may_be_void=True)
    if image.mode == "L":
        return _of_grey(np.asarray(image), object_id, is_lossy)
    if image.mode in ("1", "F") or is_wide(image):
        return _of_values(np.asarray(image), object_id)
    raise InputError(f"a mask is a grey, palette or transparent picture, this one has the mode {image.mode!r}")


def _grey(image: Image.Image, noise: int) -> Image.Image:
    colours = np.asarray(image).astype(np.int16)
    if (colours.max(axis=-1) - colours.min(axis=-1)).max() > noise:
        raise InputError(
            "this mask is a colour picture: say which colour is the object by making it a mask of 0 and 255, or of class "
            "ids"
        )
    return image.getchannel("G")


def _check_palette(image: Image.Image) -> None:
    """Raises InputError if the number 0 of a palette of greys is not black: some programs number the greys in any order."""
    colours = np.array(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
    used = colours[[i for i in _found(np.asarray(image)) if i < len(colours)]]
    if len(used) and (used == used[:, :1]).all() and colours[0].any():
        raise InputError(
            "this mask is a palette picture of greys in which the number 0 is not black: it is not clear whether its "
            "numbers or its greys say what is the object; save it as a grey picture, or say the object's number"
        )


def _refuse_id(object_id: int | None, what: str) -> None:
    if object_id is not None:
        raise InputError(f"the class id {object_id} is looked up in a mask of class ids, this one is {what}")


def _of_values(values: np.ndarray, object_id: int | None) -> Labels:
    kind = values.dtype.kind
    if kind in "bf":
        _refuse_id(object_id, f"of {values.dtype}")
    if kind == "b":
        return Labels(values, np.zeros_like(values))
    if kind == "f":
        return _of_floats(values)
    if kind not in "iu":
        raise InputError(f"a mask holds bools, whole numbers or floats, not {values.dtype}")
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise InputError(f"a mask of whole numbers holds 0 and more, this one {low} to {high}")
    if high < 256:
        return _of_grey(values.astype(np.uint8), object_id, is_lossy=False)
    if high == 65535 and object_id is None and _found(values) <= {0, 65535}:
        return Labels(values > 0, np.zeros_like(values, dtype=bool))
    return _of_ids(values, object_id, may_be_void=False)


def _of_floats(values: np.ndarray) -> Labels:
    if not np.isfinite(values).all():
        raise InputError("the mask contains NaN or infinite values")
    nothing = np.zeros(values.shape, dtype=bool)
    if values.min() >= 0 and values.max() <= 1:
        return Labels(values >= 0.5, nothing)
    if ((values == 0) | (values == 255)).all():
        return Labels(values > 0, nothing)
    raise InputError(
        f"a mask of floats lies in [0, 1], where .5 and more is the object; this one in [{values.min():.3g}, "
        f"{values.max():.3g}]: pass logits through a sigmoid, class ids as whole numbers"
    )


def _of_grey(values: np.ndarray, object_id: int | None, is_lossy: bool) -> Labels:
    """Eight bits that may be black and white, class ids, or grey."""
    if is_lossy:
        _refuse_id(object_id, "a JPEG, which does not keep numbers")
    if object_id is not None:
        return _of_ids(values, object_id, may_be_void=True)
    found = _found(values)
    nothing = np.zeros_like(values, dtype=bool)
    if found <= {0, 255} or found <= {0, 1}:
        return Labels(values > 0, nothing)
    others = found - {0, VOID}
    may_be_ids = not is_lossy and len(others) <= MOST_IDS and (VOID not in found or max(others) < MOST_IDS_BESIDE_VOID)
    if may_be_ids:
        return _of_ids(values, None, may_be_void=True)
    near = np.minimum(values, VOID - values) <= NEAR_END
    if near.mean() < SHARE_NEAR_ENDS:
        raise InputError(
            f"this mask holds {len(found)} grey values, and {1 - near.mean():.0%} of its pixels are neither black nor "
            "white: it is no mask of an object; pass a soft mask as floats in [0, 1], class ids with the object's id"
        )
    return Labels(values >= 128, nothing)


def _of_ids(ids: np.ndarray, object_id: int | None, may_be_void: bool) -> Labels:
    found = _found(ids)
    void = np.zeros_like(ids, dtype=bool)
    if may_be_void and object_id != VOID and found - {0, VOID}:
        void = ids == VOID
        found = found - {VOID}
    if object_id is not None:
        return Labels(ids == object_id, void)
    if len(found) > MOST_IDS:
        raise InputError(f"this mask holds {len(found)} different numbers: say which class id is the object")
    if len(found) > 1 and 0 not in found:
        some = ", ".join(map(str, sorted(found)[:6])) + (", …" if len(found) > 6 else "")
        raise InputError(f"this mask holds the class ids {some} and no 0 for the context: say which id is the object")
    return Labels((ids != 0) & ~void, void)


def _found(values: np.ndarray) -> set[int]:
    if values.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    return set(np.unique(values).tolist())
