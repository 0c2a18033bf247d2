"""Opens picture files and arrays, and turns them upright by their EXIF tag."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from vitlens.errors import InputError
from vitlens.files import check_picture_file

Picture = str | Path | Image.Image | np.ndarray
# Whatever an analysis accepts as pictures: a preprocessed tensor, or files, PIL images and arrays to preprocess.
Pictures = Tensor | Picture | Sequence[Picture]

#: How the names of files end that are looked for in folders.
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


def open_picture(picture: Picture, n_channels: int = 3) -> Image.Image:
    """A picture as PIL image with as many channels as the model expects (1 or 3), turned as its EXIF tag says.

    Arrays are [height, width], [height, width, 1] or [height, width, 3]: uint8, or floats in [0, 1].

    Raises:
        InputError: the file does not exist or is no picture; the array has another shape or range, or NaN.
    """
    if n_channels not in (1, 3):
        raise InputError(
            f"the model reads {n_channels} channels, pictures have 1 or 3: build the tensor "
            f"[batch, {n_channels}, height, width] yourself and pass that"
        )
    if isinstance(picture, np.ndarray):
        image = _from_array(picture)
    else:
        image, _ = load_picture(picture, "a picture is a path, a PIL image or a NumPy array")
    if is_wide(image) or image.mode == "F":
        # Pillow would cut every value above 255 off.
        raise InputError(
            f"a picture of mode {image.mode!r} has more than 8 bits a channel: pass it as an array of floats in [0, 1]"
        )
    try:
        return image.convert("RGB" if n_channels == 3 else "L")
    except Exception as error:
        raise InputError(
            f"{_name(picture)} cannot be brought from the mode {image.mode!r} to colours ({_why(error)})"
        ) from None


def load_picture(picture: object, expected: str = "a picture is a path or a PIL image") -> tuple[Image.Image, bool]:
    """Opens a picture file: returns the picture, decoded and turned as its EXIF tag says, and whether the file is a JPEG.

    Args:
        picture: a path, the bytes of a file, or a PIL picture.
        expected: the beginning of the error's sentence for anything else.

    Raises:
        InputError: no such file, something that is no regular file (a pipe would be waited for), or whatever Pillow raises:
            no picture, a broken or cut one, one that is closed, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if not isinstance(picture, (str, Path, bytes, Image.Image)):
        raise InputError(f"{expected}, not {type(picture).__name__}")
    if isinstance(picture, (str, Path)):
        check_picture_file(picture)
    try:
        if isinstance(picture, Image.Image):
            image = picture
        else:
            image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        limit = Image.MAX_IMAGE_PIXELS
        if image is not picture and limit is not None and image.width * image.height > limit:
            raise InputError(f"it has {image.width} × {image.height} pixels, more than {limit:,}: scale it down")
        image.load()
        # Turning makes a new picture, which no longer has the format of its file.
        return _turned(image), getattr(image, "format", None) in ("JPEG", "MPO")
    except Exception as error:
        # Pillow's decoders raise whatever they come across: OSError, SyntaxError, struct.error, ValueError, MemoryError …
        kind = "cannot be read" if isinstance(picture, Image.Image) else "is not a picture that Pillow can read"
        raise InputError(f"{_name(picture)} {kind} ({_why(error)})") from None


def orientation(image: Image.Image) -> int:
    """How a picture is to be turned, by its EXIF tag: 1 is upright, and so is one whose EXIF data cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _turned(image: Image.Image) -> Image.Image:
    if orientation(image) not in range(2, 9):
        return image
    turned = ImageOps.exif_transpose(image)
    assert turned is not None
    return turned


def is_wide(image: Image.Image) -> bool:
    """Whether a pixel is a whole number of more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _name(picture: object) -> str:
    if isinstance(picture, (str, Path)):
        return str(picture)
    return "the picture" if isinstance(picture, bytes) else "the PIL picture"


def _why(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise InputError(
            f"an array of shape {array.shape} is not a picture: expected [height, width] "
            "or [height, width, 3], channels last"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("the picture contains NaN or infinite values")
        if array.min() < 0 or array.max() > 1:
            raise InputError(
                f"a picture of floats must lie in [0, 1], this one in [{array.min():.3g}, "
                f"{array.max():.3g}]: scale it, or pass uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(f"a picture array is uint8 or float, not {array.dtype}")
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 and array.ndim == 3 else array)


def as_list(pictures: Any, what: str = "pictures") -> list[Any]:
    """One picture or several, as a list.

    Raises:
        InputError: neither.
    """
    if isinstance(pictures, (str, Path, Image.Image, np.ndarray)) or (
        isinstance(pictures, Tensor) and pictures.ndim == 2
    ):
        return [pictures]
    if isinstance(pictures, (Tensor, Mapping, bytes)) or not isinstance(pictures, Iterable):
        raise InputError(
            f"{what} are paths, PIL images or arrays, one or a list of them, not {type(pictures).__name__}"
        )
    return list(pictures)
