"""All hook points of a model changed in one run: each in a picture of its own, since pictures do not meet."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitlens import HookedViT


def change_each(model: HookedViT, image: Tensor, points: Sequence[str]) -> Tensor:
    """The output [point, class] for one picture [1, ...], by the point whose activation is changed."""
    with torch.no_grad():
        same = image.expand(len(points), -1, -1, -1)
        return model.run_with_hooks(same, fwd_hooks=[(point, _change_of(i)) for i, point in enumerate(points)])


def _change_of(picture: int) -> Callable:
    """A hook that changes the activations of one picture, each value by another amount."""

    def hook(x, hook):
        noise = torch.rand(x[picture].shape, generator=torch.Generator().manual_seed(picture), dtype=x.dtype)
        x = x.clone()
        x[picture] = x[picture] * (1 + noise) + 0.1 * noise
        return x

    return hook
