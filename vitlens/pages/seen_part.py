"""How much of a picture's file the model sees: its size, and the part that resizing and cropping leave."""

from pathlib import Path

from PIL import Image
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision import transforms

from vitlens.data.pictures import open_picture
from vitlens.model.hooked_vit import HookedViT


def picture_fact(model: HookedViT, picture: str | Path) -> str:
    """Such as "500 × 338 pixels, of which the middle 305 × 305 are seen".

    Raises:
        InputError: a file that is missing or no picture.
    """
    return seen_part(model.preprocessing.transform, open_picture(picture, model.cfg.n_channels))


def seen_part(transform: transforms.Compose, picture: Image.Image) -> str:
    """The size of the picture, and the part of it that its transform leaves, in the picture's own pixels."""
    width, height = picture.size
    size = f"{width} × {height} pixels"
    scale, seen = (1.0, 1.0), (width, height)
    for step in transform.transforms:
        if isinstance(step, transforms.Resize):
            scale = _resized(step.size, width, height)
        elif isinstance(step, ResizeKeepRatio):
            down, across = step.get_params(picture, step.size, step.longest)
            scale = across / width, down / height
        elif isinstance(step, (transforms.CenterCrop, CenterCropOrPad)):
            down, across = step.size
            seen = min(width, round(across / scale[0])), min(height, round(down / scale[1]))
    stretched = ", stretched to the model's shape" if abs(scale[0] / scale[1] - 1) > 0.02 else ""
    if seen == (width, height):
        return f"{size}, seen whole{stretched}"
    return f"{size}, of which the middle {seen[0]} × {seen[1]} are seen{stretched}"


def _resized(size: int | list[int], width: int, height: int) -> tuple[float, float]:
    """How many pixels one pixel becomes, across and down; a single size is that of the shorter side."""
    if isinstance(size, int) or len(size) == 1:
        shorter = size if isinstance(size, int) else size[0]
        return (shorter / min(width, height),) * 2
    down, across = size
    return across / width, down / height
