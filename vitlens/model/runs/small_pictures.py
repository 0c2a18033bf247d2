"""Makes the small pictures that a result keeps for its figures."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlens.results.result import LONGEST_KEPT, MOST_KEPT

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def small_pictures(
    model: "HookedViT",
    images: Float[Tensor, "image channels height width"],
    most: int = MOST_KEPT,
    longest: int = LONGEST_KEPT,
) -> UInt8[Tensor, "kept kept_height kept_width 3"]:
    """The first pictures as bytes of colour, at most 448 pixels on the longer side: some ten megabytes for all 16."""
    pixels = model.to_pixels(images[:most].detach()).float()
    height, width = pixels.shape[1:3]
    scale = longest / max(height, width)
    if scale < 1:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = F.interpolate(pixels.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
