"""Pictures in, tensors out: reading files and arrays, and the preprocessing that a model was trained with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from vitlens.errors import InputError

Picture = str | Path | Image.Image | np.ndarray
# Whatever an analysis accepts as pictures: a preprocessed tensor, or files, PIL images and arrays to preprocess.
Pictures = Tensor | Picture | Sequence[Picture]


def open_picture(picture: Picture, n_channels: int = 3) -> Image.Image:
    """A picture as PIL image with as many channels as the model expects (1 or 3).

    Arrays are [height, width], [height, width, 1] or [height, width, 3]: uint8, or floats in [0, 1].

    Raises:
        InputError: the file does not exist or is no picture; the array has another shape or range, or NaN.
    """
    if n_channels not in (1, 3):
        raise InputError(
            f"the model reads {n_channels} channels, pictures have 1 or 3: build the tensor "
            f"[batch, {n_channels}, height, width] yourself and pass that"
        )
    if isinstance(picture, (str, Path)):
        image = _open_file(picture)
    elif isinstance(picture, np.ndarray):
        image = _from_array(picture)
    elif isinstance(picture, Image.Image):
        image = picture
    else:
        raise InputError(f"a picture is a path, a PIL image or a NumPy array, not {type(picture).__name__}")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow would cut every value above 255 off.
        raise InputError(
            f"a picture of mode {image.mode!r} has more than 8 bits a channel: pass it as an array of floats in [0, 1]"
        )
    return image.convert("RGB" if n_channels == 3 else "L")


def _open_file(path: str | Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is not a picture that Pillow can read ({error})") from None
    return image


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

    def image(self, picture: Picture) -> Float[Tensor, "channels height width"]:
        return self.transform(open_picture(picture, self.data_config["input_size"][0]))

    def mask(self, mask: Picture) -> Bool[Tensor, "height width"]:
        """A mask through the same resizing and cropping as its picture, by nearest neighbour; not 0 is inside."""
        array = mask if isinstance(mask, np.ndarray) else np.asarray(_open_mask(mask))
        if array.ndim != 2 or array.size == 0:
            raise InputError(f"a mask has the shape [height, width], this one {array.shape}")
        image = Image.fromarray((array != 0).astype(np.uint8) * 255)
        for step in self.transform.transforms:
            if isinstance(step, transforms.Resize):
                image = transforms.Resize(step.size, transforms.InterpolationMode.NEAREST)(image)
            elif isinstance(step, ResizeKeepRatio):
                image = ResizeKeepRatio(step.size, step.longest, "nearest")(image)
            elif isinstance(step, transforms.CenterCrop):
                image = step(image)
            elif isinstance(step, CenterCropOrPad):
                # What is added around a picture is outside of its mask.
                image = CenterCropOrPad(step.size)(image)
            elif type(step).__name__ in ("ToTensor", "MaybeToTensor", "MaybePILToTensor"):
                return torch.from_numpy(np.asarray(image) > 0)
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


def _open_mask(mask: str | Path | Image.Image) -> Image.Image:
    image = mask if isinstance(mask, Image.Image) else _open_file(mask)
    # Palette and grey images keep their values: class 0 is outside.
    return image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("L")


def patch_share(
    masks: Bool[Tensor, "batch height width"], grid: tuple[int, int]
) -> Float[Tensor, "batch rows columns"]:
    """The share of each patch's area that lies inside the mask."""
    return torch.nn.functional.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]


def as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One picture or several, as a list."""
    if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
        return [pictures]
    return list(pictures)
