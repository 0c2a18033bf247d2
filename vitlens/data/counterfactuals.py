"""Counterfactual pictures: the same object in another context."""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vitlens.errors import InputError

REPLACEMENTS = ("other", "mean", "zero", "blur", "shuffle")


def replace_context(
    images: Float[Tensor, "batch channels height width"],
    masks: Tensor | np.ndarray,
    how: str,
    donors: Tensor | None = None,
    *,
    patch_size: tuple[int, int] = (16, 16),
    seed: int = 0,
) -> Float[Tensor, "batch channels height width"]:
    """Keeps the pixels inside the mask and replaces the others, in the model's preprocessed space.

    Args:
        masks: where the object is, bool [batch, height, width].
        how: "other": the pixels of `donors` at the same place; "mean": each picture's own mean colour outside the mask;
            "zero": 0, the mean colour of the training data; "blur": the picture blurred, σ = 1/16 of its height;
            "shuffle": the picture's patches of `patch_size` that lie wholly outside the mask change places.

    Raises:
        InputError: an unknown replacement, missing donors, masks of another shape, patches that do not tile the picture.
    """
    if how not in REPLACEMENTS:
        raise InputError(f"a context is replaced by one of {', '.join(REPLACEMENTS)}, not {how!r}")
    masks = torch.as_tensor(masks)
    if masks.shape != (len(images), *images.shape[-2:]):
        raise InputError(
            f"masks have the shape {[len(images), *images.shape[-2:]]} of the pictures, not {list(masks.shape)}"
        )
    inside = masks[:, None].to(images.device, torch.bool)
    if how == "other":
        if donors is None or donors.shape != images.shape:
            raise InputError("how='other' needs donors=, one picture of the same size for each picture")
        return donors.where(~inside, images)
    if how == "mean":
        outside = (~inside).to(images)
        mean = (images * outside).sum((-2, -1), keepdim=True) / outside.sum((-2, -1), keepdim=True).clamp(min=1)
        return images.where(inside, mean)
    if how == "zero":
        return images * inside
    if how == "shuffle":
        return _shuffled(images, masks.to(images.device, torch.bool), patch_size, seed)
    return images.where(inside, blurred(images))


def _shuffled(
    images: Float[Tensor, "batch channels height width"],
    masks: Bool[Tensor, "batch height width"],
    patch_size: tuple[int, int],
    seed: int,
) -> Float[Tensor, "batch channels height width"]:
    """The patches that hold nothing of the object, dealt out anew within each picture."""
    (height, width), (rows, columns) = images.shape[-2:], patch_size
    if height % rows or width % columns:
        raise InputError(f"patches of {rows} × {columns} do not tile pictures of {height} × {width}: pass patch_size=")
    grid = {"r": height // rows, "c": width // columns}
    patches = rearrange(images, "b k (r y) (c x) -> b (r c) k y x", **grid)
    outside = ~rearrange(masks, "b (r y) (c x) -> b (r c) (y x)", **grid).any(dim=-1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = patches.clone()
    for image, free in enumerate(outside):
        places = free.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator).to(places.device)
        shuffled[image, places] = patches[image, places[order]]
    return rearrange(shuffled, "b (r c) k y x -> b k (r y) (c x)", **grid)


def blurred(images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Pictures out of focus: σ = 1/16 of their height."""
    sigma = images.shape[-2] / 16
    kernel = 2 * round(2 * sigma) + 1
    return gaussian_blur(images, [kernel, kernel], [sigma, sigma])
