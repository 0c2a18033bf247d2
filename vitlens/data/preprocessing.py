"""Preprocessing: how a picture is resized, cropped and normalised before a model reads it, and the way back to colours."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

from vitlens.arguments import short
from vitlens.data.pictures import Picture, open_picture
from vitlens.errors import InputError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def changed_config(
    config: dict[str, Any],
    mean: Any = None,
    std: Any = None,
    crop_pct: Any = None,
    interpolation: Any = None,
) -> dict[str, Any]:
    """timm's data configuration with other values where they are given.

    Raises:
        InputError: numbers that no preprocessing has, not one for each channel, or an unknown interpolation.
    """
    changed = dict(config)
    for name, value in (("mean", mean), ("std", std)):
        if value is not None:
            changed[name] = _of_channels(name, value, config["input_size"][0])
    if crop_pct is not None:
        if not _is_number(crop_pct) or not 0 < crop_pct <= 1:
            raise InputError(
                "crop_pct is the part of the resized picture's side that is kept, above 0 and at most 1, not "
                f"{short(crop_pct)}"
            )
        changed["crop_pct"] = float(crop_pct)
    if interpolation is not None:
        if interpolation not in INTERPOLATIONS:
            raise InputError(f"interpolation is one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}")
        changed["interpolation"] = interpolation
    return changed


def _of_channels(name: str, value: Any, n_channels: int) -> tuple[float, ...]:
    """One number for all channels, or one for each."""
    values: list[Any] = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    # A colour in [0, 1] has a mean in [0, 1]; a std of 1 leaves the colours as they are.
    fits = all(_is_number(x) and (0 < x <= 1 or (x == 0 and name == "mean")) for x in values)
    if not fits or len(values) not in (1, n_channels):
        raise InputError(
            f"{name} is one number or one for each of the {n_channels} channels, of colours in [0, 1] (divide those of "
            f"0 to 255 by 255), not {short(value)}"
        )
    return tuple(float(x) for x in values) * (n_channels // len(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and isfinite(value)


class Preprocessing:
    """The evaluation transform of timm's data configuration, for pictures and, geometry only, for their masks."""

    def __init__(self, data_config: dict[str, Any]) -> None:
        self.data_config = data_config
        self.transform = create_transform(**data_config, is_training=False)
        n_channels = data_config["input_size"][0]
        self.mean = torch.tensor(data_config["mean"]).expand(n_channels)
        self.std = torch.tensor(data_config["std"]).expand(n_channels)
        #: The largest magnitude that a colour has when it is normalised.
        self.largest_value = (torch.maximum(self.mean, 1 - self.mean) / self.std).max().item()

    def __str__(self) -> str:
        """Size, interpolation, crop and normalisation, as timm's data configuration has them."""
        config = self.data_config
        size = " × ".join(map(str, config["input_size"][1:]))
        mean, std = (", ".join(f"{value:.3g}" for value in _short(config[name])) for name in ("mean", "std"))
        crop = f"{config['crop_mode']} crop {config['crop_pct']:.4g}"
        return f"{size} pixels, {config['interpolation']}, {crop}, mean {mean}, std {std}"

    def __repr__(self) -> str:
        return f"Preprocessing({self})"

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
                # Filled with 0: what is added around a picture does not belong to the object.
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


def _short(values: Iterable[float]) -> list[float]:
    """One value if all channels have the same, else all of them."""
    several = list(values)
    return several[:1] if len(set(several)) == 1 else several
