"""Finds hooks of the user that edit activations: an analysis that recomputes a value would miss such an edit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle

from vitlens.model.hooks.hook_points import OwnedHookPoint, Reader

#: For each hook point by name: its activation before and after the hooks that changed it.
Edits = dict[str, tuple[Tensor, Tensor]]


def may_be_edited(point: nn.Module) -> bool:
    """Whether a run in this thread calls a hook here that may edit the activation."""
    assert isinstance(point, OwnedHookPoint)
    return any(point.is_called_here(handle) and not isinstance(handle.user_hook, Reader) for handle in point.fwd_hooks)


@contextmanager
def watch_edits(model: HookedRootModule, names: Iterable[str]) -> Iterator[Edits]:
    """Records what hooks change at these hook points in the last run inside; hooks that only read change nothing."""
    edits: Edits = {}
    before: dict[str, Tensor] = {}
    added: list[tuple[OwnedHookPoint, LensHandle]] = []

    def keep(activation: Tensor, hook: HookPoint) -> None:
        before[str(hook.name)] = activation.detach().clone()

    def compare(activation: Tensor, hook: HookPoint) -> None:
        name, after = str(hook.name), activation.detach()
        then = before.pop(name)
        if not torch.allclose(then, after, rtol=0.0, atol=0.0, equal_nan=True):
            edits[name] = (then, after.clone())

    try:
        for name in names:
            point = cast(OwnedHookPoint, model.hook_dict[name])
            if may_be_edited(point):
                for reader, first in ((keep, True), (compare, False)):
                    added.append((point, point.add_hook(Reader(reader), level=1, prepend=first)))
        yield edits
    finally:
        for point, handle in added:
            point.remove(handle)
