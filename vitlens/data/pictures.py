"""Pictures in, tensors out: reading files and arrays, and the preprocessing that a model was trained with."""

import io
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from vitlens.errors import InputError

Picture = str | Path | Image.Image | np.ndarray
# Whatever an analysis accepts as pictures: a preprocessed tensor, or files, PIL images and arrays to preprocess.
Pictures = Tensor | Picture | Sequence[Picture]

#: How the names of files end that are looked for in folders.
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
#: What is no regular file, by what `stat` says.
OTHER_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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
    """The one place where picture files are opened: the picture, decoded and turned as its EXIF tag says, and whether its
    file was compressed with loss (JPEG).

    Args:
        picture: a path, the bytes of a file, or a PIL picture.
        expected: how the sentence begins that says of something else what it is not.

    Raises:
        InputError: no such file, something that is no regular file (a pipe would be waited for), or whatever Pillow raises:
            no picture, a broken or cut one, one that is closed, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    if not isinstance(picture, (str, Path, bytes, Image.Image)):
        raise InputError(f"{expected}, not {type(picture).__name__}")
    if isinstance(picture, (str, Path)):
        _check_regular(picture)
    try:
        if isinstance(picture, Image.Image):
            image = picture
        else:
            image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        limit = Image.MAX_IMAGE_PIXELS
        if image is not picture and limit is not None and image.width * image.height > limit:
            raise InputError(f"it has {image.width} × {image.height} pixels, more than {limit:,}: scale it down")
        image.load()
        # A turned picture is another one, which knows no format.
        return _turned(image), getattr(image, "format", None) in ("JPEG", "MPO")
    except Exception as error:
        # Pillow's decoders raise whatever they come across: OSError, SyntaxError, struct.error, ValueError, MemoryError …
        kind = "cannot be read" if isinstance(picture, Image.Image) else "is not a picture that Pillow can read"
        raise InputError(f"{_name(picture)} {kind} ({_why(error)})") from None


def _check_regular(path: str | Path) -> None:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a picture that Pillow can read ({_why(error)})") from None
    if not stat.S_ISREG(mode):
        kind = OTHER_FILES.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"{path} is not a picture that Pillow can read (it is {kind})")


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


class Preprocessing:
    """The evaluation transform of timm's data configuration, for pictures and, geometry only, for their masks."""

    def __init__(self, data_config: dict[str, Any]) -> None:
        self.data_config = data_config
        self.transform = create_transform(**data_config, is_training=False)
        n_channels = data_config["input_size"][0]
        self.mean = torch.tensor(data_config["mean"]).expand(n_channels)
        self.std = torch.tensor(data_config["std"]).expand(n_channels)

    def image(self, source: Picture) -> Float[Tensor, "channels height width"]:
        return self.transform(open_picture(source, self.data_config["input_size"][0]))

    def mask(self, values: np.ndarray) -> UInt8[Tensor, "image_height image_width"]:
        """Numbers of a picture's pixels [height, width], through its resizing and cropping by nearest neighbour; 0 where
        pixels are added around it.

        Raises:
            InputError: another shape; a transform whose geometry is not known.
        """
        if values.ndim != 2 or values.size == 0:
            raise InputError(f"a mask has the shape [height, width], this one {values.shape}")
        image = Image.fromarray(values.astype(np.uint8))
        for step in self.transform.transforms:
            if isinstance(step, transforms.Resize):
                image = transforms.Resize(step.size, transforms.InterpolationMode.NEAREST)(image)
            elif isinstance(step, ResizeKeepRatio):
                image = ResizeKeepRatio(step.size, step.longest, "nearest")(image)
            elif isinstance(step, transforms.CenterCrop):
                image = step(image)
            elif isinstance(step, CenterCropOrPad):
                # Without its fill: what is added around a picture is outside of its mask.
                image = CenterCropOrPad(step.size)(image)
            elif type(step).__name__ in ("ToTensor", "MaybeToTensor", "MaybePILToTensor"):
                return torch.from_numpy(np.array(image))
            else:
                raise InputError(
                    f"masks cannot follow the transform step {type(step).__name__}: "
                    "pass masks as a bool tensor [batch, height, width] of the model's image size"
                )
        raise AssertionError("the transform has no ToTensor step")

    def undo(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width 3"]:
        """What the model sees, back in [0, 1] and channels last, to be shown."""
        mean, std = (x.to(images)[:, None, None] for x in (self.mean, self.std))
        pixels = (images * std + mean).clamp(0, 1)
        shown = pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)
        return shown.permute(0, 2, 3, 1)


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
