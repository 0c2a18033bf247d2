"""Pixels and patches: pictures without what they show, and pixels' shares summed over the patches."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
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
