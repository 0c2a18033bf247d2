"""Provides what replaces an activation: that of another run, a mean, zeros, noise, or the user's own tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.sites import find_site
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.model.runs.picture_run import default_batch_size

ActivationTable = Mapping[str, Tensor]


@runtime_checkable
class Source(Protocol):
    """Gives, for hook points of the run on `target`, the activations that replace theirs: [image or 1, …] each."""

    def activations(self, model: HookedViT, names: list[str], target: Tensor, images: slice) -> ActivationTable: ...


@dataclass(frozen=True)
class OtherRun:
    """The activations of a run on other pictures, pair by pair."""

    pictures: Float[Tensor, "image channels height width"]

    def activations(self, model: HookedViT, names: list[str], target: Tensor, images: slice) -> ActivationTable:
        return model.run_with_cache(self.pictures[images], names_filter=names)[1].cache_dict


@dataclass(frozen=True)
class Zeros:
    """Zero ablation."""

    def activations(self, model: HookedViT, names: list[str], target: Tensor, images: slice) -> ActivationTable:
        return {name: torch.zeros((), dtype=model.dtype, device=model.device) for name in names}


@dataclass(frozen=True)
class Noise:
    """The activation itself with Gaussian noise of `scale` times the site's standard deviation over tokens and features.

    A picture's noise depends on its place in the batch and the seed alone.
    """

    scale: float = 1.0
    seed: int = 0

    def activations(self, model: HookedViT, names: list[str], target: Tensor, images: slice) -> ActivationTable:
        clean = model.run_with_cache(target, names_filter=names)[1]
        return {name: value + self.scale * self._noise(name, value, images) for name, value in clean.items()}

    def _noise(self, name: str, value: Tensor, images: slice) -> Tensor:
        drawn = [
            np.random.default_rng([self.seed, image, *name.encode()]).standard_normal(value.shape[1:])
            for image in range(images.start, images.start + len(value))
        ]
        spread = value.flatten(1).std(dim=1).reshape(-1, *[1] * (value.ndim - 1))
        return torch.from_numpy(np.stack(drawn)).to(value) * spread


@dataclass(frozen=True)
class GivenValues:
    """The user's own: a tensor for every block, or a mapping from blocks or hook names to tensors."""

    values: Tensor | Mapping[Any, Tensor]

    def activations(self, model: HookedViT, names: list[str], target: Tensor, images: slice) -> ActivationTable:
        shapes = {
            name: value.shape[1:] for name, value in model.run_with_cache(target[:1], names_filter=names)[1].items()
        }
        found = {}
        for name, shape in shapes.items():
            value = (self.values if isinstance(self.values, Tensor) else self._find(name)).to(model.device, model.dtype)
            if value.ndim == len(shape) + 1 and len(value) > 1:
                value = value[images]
            try:
                found[name] = value.expand(len(target), *shape)
            except RuntimeError:
                raise InputError(
                    f"the tensor given for {name} is {list(value.shape)}, which does not fit its activations "
                    f"{[len(target), *shape]}"
                ) from None
        return found

    def _find(self, name: str) -> Tensor:
        assert not isinstance(self.values, Tensor)
        for key in (name, int(name.split(".")[1])):
            if key in self.values:
                return self.values[key]
        raise InputError(f"replacement has no tensor for {name}: its keys are block numbers or hook names")


@leaves_state
@checked
def mean_activations(
    model: HookedViT,
    images: PictureSource,
    *,
    sites: str | Sequence[str] = "z",
    blocks: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> dict[str, Float[Tensor, "1 ..."]]:
    """The mean activations of a site over pictures, at each position, for mean ablation.

    Memory does not grow with the number of pictures.

    Args:
        images: pictures of any kind that `model.to_images` reads; a picture set (`open_pictures`); or batches of them.
        sites: as in `activation_patching`, one or several.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        A dictionary from hook names to means [1, tokens, …], for `activation_ablation(replacement=…)`.

    Raises:
        InputError: an unknown site; no pictures.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> means = vitlens.patching.mean_activations(model, images[:8], sites="z", blocks=[3])
        >>> {name: mean.shape for name, mean in means.items()}
        {'blocks.3.attn.hook_z': torch.Size([1, 197, 4, 24])}
    """
    chosen = [find_site(model, name) for name in ([sites] if isinstance(sites, str) else sites)]
    names = [site.hook(block) for site in chosen for block in model.block_indices(blocks)]
    return {name: mean.to(model.dtype) for name, mean in means_at(model, images, names, batch_size, progress).items()}


def means_at(
    model: HookedViT, images: PictureSource, names: Sequence[str], batch_size: int | None, progress: bool | None
) -> dict[str, Float[Tensor, "1 ..."]]:
    """The mean activation at each of these hook points over pictures, in double precision."""
    batches = PictureBatches(model, images, batch_size or default_batch_size(model))
    sums: dict[str, Tensor] = {}
    n_seen = 0
    with torch.no_grad():
        for batch in batches.with_bar("mean activations", progress):
            n_seen += len(batch.images)
            for name, value in model.run_with_cache(batch.images, names_filter=names)[1].items():
                # Thousands of pictures in single precision would round each other away.
                total = value.sum(dim=0, keepdim=True, dtype=torch.float64)
                sums[name] = sums[name] + total if name in sums else total
    if not n_seen:
        raise InputError("there are no pictures to average over")
    return {name: total / n_seen for name, total in sums.items()}
