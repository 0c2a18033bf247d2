"""Pixels and patches: pictures without what they show, the pixels of a patch, and pixels' shares summed over patches."""

from collections.abc import Callable

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
    images: Float[Tensor, "image channels height width"], replacement: str
) -> Float[Tensor, "image channels height width"]:
    """Pictures that show nothing: "zero" is the grey that the training data have on average, "mean" each picture's own mean
    colour, "blur" the picture blurred (σ = 1/16 of its height).

    Raises:
        InputError: an unknown replacement.
    """
    if replacement not in EMPTY:
        raise InputError(
            f"what stands in for the picture (replacement) is one of {', '.join(EMPTY)}, not {replacement!r}"
        )
    return EMPTY[replacement](images)


def pixels_of(
    model: HookedViT, patches: Bool[Tensor, "row patch"], height: int, width: int
) -> Bool[Tensor, "row height width"]:
    """The pixels that these patches are made of, in pictures of this size."""
    cut = model.patch_grid(height, width)
    return cut.pixels_of(patches.unflatten(1, cut.grid), height, width)


def sum_over_patches(
    model: HookedViT, pixels: Float[Tensor, "image channels height width"]
) -> Float[Tensor, "image patch"]:
    """The sum over the channels and pixels that each patch is made of.

    Pixels that are cut off, where whole patches do not fill the picture, count for none.
    """
    cut = model.patch_grid(*pixels.shape[-2:])
    rows, columns = cut.grid
    return reduce(cut.fit(pixels), "b k (r y) (c x) -> b (r c)", "sum", r=rows, c=columns)
