"""Pixels and patches: pictures without what they show, the pixels of a patch, and pixels' shares summed over patches."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.data.counterfactuals import blurred
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

#: What stands for the absence of a picture's content, in the model's preprocessed space.
EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": lambda images: images.new_zeros(()).expand_as(images),
    "mean": lambda images: images.mean(dim=(-2, -1), keepdim=True).expand_as(images),
    "blur": blurred,
}


def emptied(
    images: Float[Tensor, "image channels height width"], how: str
) -> Float[Tensor, "image channels height width"]:
    """Pictures that show nothing: "zero" is the grey that the training data have on average, "mean" each picture's own mean
    colour, "blur" the picture blurred (σ = 1/16 of its height).

    Raises:
        InputError: an unknown way.
    """
    if how not in EMPTY:
        raise InputError(f"a picture is emptied by one of {', '.join(EMPTY)}, not {how!r}")
    return EMPTY[how](images)


def pixels_of(
    model: HookedViT, patches: Bool[Tensor, "row patch"], height: int, width: int
) -> Bool[Tensor, "row height width"]:
    """The pixels that these patches are made of, in pictures of this size."""
    down, across = model.cfg.patch_size
    grid = model.embed.grid(height, width)
    pixels = patches.unflatten(1, grid).repeat_interleave(down, dim=1).repeat_interleave(across, dim=2)
    # Patches may stick out of the picture, or not fill it.
    return F.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))


def sum_over_patches(
    model: HookedViT, pixels: Float[Tensor, "image channels height width"]
) -> Float[Tensor, "image patch"]:
    """The sum over the channels and pixels that each patch is made of.

    Pixels that are cut off, where whole patches do not fill the picture, count for none.
    """
    height, width = pixels.shape[-2:]
    rows, columns = model.embed.grid(height, width)
    patch_height, patch_width = model.cfg.patch_size
    # A negative padding cuts, as the stem does; a positive one adds what the stem adds.
    fitted = F.pad(pixels, (0, columns * patch_width - width, 0, rows * patch_height - height))
    return reduce(fitted, "b k (r y) (c x) -> b (r c)", "sum", r=rows, c=columns)
