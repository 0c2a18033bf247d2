"""Counterfactual pictures: the same object in another context."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vitlens.arguments import checked
from vitlens.data.masks import MaskInput, Masks, as_masks
from vitlens.data.patches import PatchGrid
from vitlens.errors import InputError

CONTEXT_REPLACEMENTS = ("other", "mean", "zero", "blur", "shuffle")


@checked
def replace_context(
    images: Float[Tensor, "batch channels height width"],
    masks: MaskInput,
    *,
    replacement: str,
    others: Tensor | None = None,
    patch_size: tuple[int, int] | PatchGrid = (16, 16),
    seed: int = 0,
) -> Float[Tensor, "batch channels height width"]:
    """Replaces the context's pixels of preprocessed pictures, and keeps all others.

    Args:
        masks: where the object is, at the pictures' size: a tensor or array [batch, height, width], a list of them, or what
            `model.read_masks` makes of files. The context is what is neither the object nor void.
        replacement: "other": the pixels of `others` at the same place; "mean": each picture's own mean colour of its
            context; "zero": 0, the mean colour of the training data; "blur": the picture blurred, σ = 1/16 of its height;
            "shuffle": the patches that lie wholly in the context are shuffled.
        patch_size: the patches' height and width for "shuffle"; or `model.patch_grid(height, width)`, which also covers
            patches that do not fill the picture.

    Raises:
        InputError: an unknown replacement, other pictures that are missing, masks of another shape, patches that do not
            tile the picture.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> changed = vitlens.replace_context(images[:1], masks[:1], replacement="mean")
        >>> same = (changed == images[:1]).all(dim=1)
        >>> bool(same[masks[:1]].all()), bool(same[~masks[:1]].all())
        (True, False)
    """
    if replacement not in CONTEXT_REPLACEMENTS:
        raise InputError(f"a context is replaced by one of {', '.join(CONTEXT_REPLACEMENTS)}, not {replacement!r}")
    _check_pictures(images)
    read = as_masks(masks, _refuse_file).to(images.device)
    found, expected = [len(read), *read.size], [len(images), *images.shape[-2:]]
    if found != expected:
        raise InputError(f"masks have the shape {expected} of the pictures, not {found}")
    if replacement != "other" and others is not None:
        raise InputError(f'others= goes with replacement="other": replacement="{replacement}" would not read them')
    context = ~(read.inside | read.void)
    if replacement == "shuffle":
        return _shuffled(images, context, _patches(patch_size, *images.shape[-2:]), seed)
    return torch.where(context[:, None], _stand_in(images, context[:, None], replacement, others), images)


def _check_pictures(images: Any) -> None:
    is_dense = (
        isinstance(images, Tensor) and not (images.is_nested or images.is_meta) and images.layout == torch.strided
    )
    if not is_dense or images.ndim != 4 or not images.is_floating_point() or not images.isfinite().all():
        raise InputError(
            "pictures are a tensor of finite floats [batch, channels, height, width], as model.to_images makes it"
        )


def _refuse_file(mask: object) -> Masks:
    raise InputError("masks in files are to be brought to the pictures' size: pass model.read_masks(masks)")


def _stand_in(
    images: Float[Tensor, "batch channels height width"],
    context: Bool[Tensor, "batch 1 height width"],
    replacement: str,
    others: Any,
) -> Tensor:
    if replacement == "other":
        if others is not None:
            _check_pictures(others)
        if others is None or others.shape != images.shape:
            raise InputError('replacement="other" needs others=, one picture of the same size for each picture')
        return others
    if replacement == "mean":
        outside = context.to(images)
        return (images * outside).sum((-2, -1), keepdim=True) / outside.sum((-2, -1), keepdim=True).clamp(min=1)
    return torch.zeros_like(images) if replacement == "zero" else blurred(images)


def _patches(patch_size: tuple[int, int] | PatchGrid, height: int, width: int) -> PatchGrid:
    """The whole patches of pictures of this size."""
    if isinstance(patch_size, PatchGrid):
        down, across = patch_size.patch_size
        rows, columns = patch_size.grid
        return PatchGrid((min(rows, height // down), min(columns, width // across)), (down, across))
    down, across = patch_size
    if height % down or width % across:
        raise InputError(
            f"patches of {down} × {across} do not tile pictures of {height} × {width}: pass the model's own, "
            "patch_size=model.patch_grid(height, width)"
        )
    return PatchGrid((height // down, width // across), (down, across))


def _shuffled(
    images: Float[Tensor, "batch channels height width"],
    context: Bool[Tensor, "batch height width"],
    cut: PatchGrid,
    seed: int,
) -> Float[Tensor, "batch channels height width"]:
    """Shuffles, within each picture, the patches that hold nothing but context."""
    grid = {"r": cut.grid[0], "c": cut.grid[1]}
    patches = rearrange(cut.fit(images), "b k (r y) (c x) -> b (r c) k y x", **grid)
    outside = rearrange(cut.fit(context), "b (r y) (c x) -> b (r c) (y x)", **grid).all(dim=-1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = patches.clone()
    for image, free in enumerate(outside):
        places = free.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator).to(places.device)
        shuffled[image, places] = patches[image, places[order]]
    whole = images.clone()
    whole[..., : cut.size[0], : cut.size[1]] = rearrange(shuffled, "b (r c) k y x -> b k (r y) (c x)", **grid)
    return whole


def blurred(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Blurs pictures with σ = 1/16 of their height."""
    sigma = images.shape[-2] / 16
    kernel = 2 * round(2 * sigma) + 1
    return gaussian_blur(images, [kernel, kernel], [sigma, sigma])
