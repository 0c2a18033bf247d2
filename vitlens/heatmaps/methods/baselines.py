"""Baseline maps that do not use the model: random numbers, and nearness to the centre of the picture."""

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import require_seed, require_whole
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT


def random_map(
    model: HookedViT, images: Float[Tensor, "image channels height width"], *, seed: int = 0
) -> Float[Tensor, "image patch"]:
    """A random order of the patches, as numbers from 0 to 1, drawn from the picture's own pixels and the seed.

    So it depends neither on the other pictures of a batch nor on their order.

    Raises:
        InputError: a seed that is negative or no whole number.
    """
    require_seed(seed)
    rows, columns = model.embed.grid(*images.shape[-2:])
    keys = [picture_key(picture) for picture in images]
    return random_importance(keys, rows * columns, seed).to(images) / max(1, rows * columns - 1)


def centre_prior(
    model: HookedViT, images: Float[Tensor, "image channels height width"]
) -> Float[Tensor, "image patch"]:
    """−|p_j − p| / r: how far patch j's centre lies from the picture's, in pixels, over half the picture's diagonal.

    0 in the centre, −1 in the corners, whatever the picture shows.
    """
    height, width = images.shape[-2:]
    grid = model.embed.grid(height, width)
    down, across = (
        (torch.arange(n).to(images) + 0.5) * patch - side / 2
        for n, patch, side in zip(grid, model.cfg.patch_size, (height, width), strict=True)
    )
    nearness = -torch.hypot(down[:, None], across[None]) / (math.hypot(height, width) / 2)
    return nearness.flatten().repeat(len(images), 1)


def random_importance(
    keys: Sequence[int], n_patches: int, seed: int = 0, shared: bool = False
) -> Float[Tensor, "image patch"]:
    """The baseline of Methods D3: a random order for every picture, drawn from its key and the seed, so that it does not
    depend on which pictures share a batch (`shared`: one for all, as published).

    Raises:
        InputError: a seed that is negative or no whole number, no pictures, fewer than one patch.
    """
    require_seed(seed)
    require_whole(n_patches=n_patches)
    if not len(keys) or n_patches < 1:
        raise InputError(f"a random order takes at least one picture and one patch, not {len(keys)} and {n_patches}")
    rows = [np.random.default_rng([seed, -1 if shared else int(key)][: 1 if shared else 2]) for key in keys]
    return torch.from_numpy(np.stack([generator.permutation(n_patches) for generator in rows])).double()


def picture_key(picture: Float[Tensor, "channels height width"]) -> int:
    """A number of the picture's pixels, the same on every device and in every precision that holds them."""
    pixels = picture.detach().float().cpu().contiguous().numpy()
    return int.from_bytes(blake2b(pixels.tobytes(), digest_size=8).digest())
