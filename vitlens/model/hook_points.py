"""How hook points are made, handed tensors, and found by name."""

import re
from collections.abc import Callable, Collection, Iterable
from typing import cast

from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError, nearest

HookName = str | tuple[str, int] | tuple[str, int, str | None]
NamesFilter = None | HookName | Iterable[HookName] | Callable[[str], bool]

# `HookPoint.pos_dim` of an activation that has no token axis; TransformerLens itself knows only "default" (None).
NO_TOKENS = 0


def hook_point(token_axis: int = -2) -> HookPoint:
    """A hook point that knows which axis of its activation runs over tokens (`pos_slice` cuts there)."""
    point = HookPoint()
    point.pos_dim = token_axis
    return point


def expose(point: HookPoint, activation: Tensor) -> Tensor:
    """Passes an activation that is still needed as it is through its hook point, as a copy if it might be edited.

    Needed because it shares memory with another activation or a parameter, or because its gradient is computed from
    it. A hook may then edit in place, and the edit reaches what follows and nothing else. Caches only read.
    """
    only_read = not point.bwd_hooks and all(isinstance(handle.user_hook, Reader) for handle in point.fwd_hooks)
    return point(activation if only_read else activation.clone())


class Reader:
    """A hook that reads its activation and never edits it, so that it can be handed the original."""

    def __init__(self, read: Callable[[Tensor, HookPoint], None]) -> None:
        self.read = read

    def __call__(self, activation: Tensor, hook: HookPoint) -> None:
        self.read(activation, hook)

    def __repr__(self) -> str:
        # TransformerLens names torch's hooks by this: the representation of what is read would be long.
        return "Reader"


def resolve_names(names: NamesFilter, available: Collection[str], n_blocks: int | None = None) -> list[str]:
    """The full hook names that a filter stands for, in the order of the forward pass.

    Args:
        names: None (all), a full name, a shorthand ("resid_post": every block's, "resid_post5", "logits",
            "ln1.hook_scale"), a key ("resid_post", 5) or ("scale", 5, "ln1"), a collection of these, or a
            predicate on full names.
        available: every full name, in the order of the forward pass; a dictionary of them is quickest.
        n_blocks: of the model, where `available` are not the hook points of all of its blocks.

    Raises:
        InputError: a name matches nothing; the message lists the nearest names.
    """
    if names is None:
        return list(available)
    if callable(names):
        chosen = {name for name in available if names(name)}
        if not chosen:
            raise InputError(
                "the hook filter accepts none of this model's hook points; "
                f"they look like {', '.join(list(available)[:4])}"
            )
    elif isinstance(names, str) or _is_key(names):
        return _matches(cast(HookName, names), available, n_blocks)
    else:
        chosen = {match for name in names for match in _matches(cast(HookName, name), available, n_blocks)}
        if not chosen:
            raise InputError("the list of hook names is empty: name at least one, or pass None for all")
    return [name for name in available if name in chosen]


def _is_key(names: object) -> bool:
    """("resid_post", 5), or ("scale", 5, "ln1") as in TransformerLens."""
    return isinstance(names, tuple) and len(names) in (2, 3) and isinstance(names[0], str) and isinstance(names[1], int)


def _matches(name: HookName, available: Collection[str], n_blocks: int | None) -> list[str]:
    if name in available:
        # A full name: the usual case by far, and a run may have hundreds of them.
        return [str(name)]
    block: int | None
    if isinstance(name, tuple):
        shorthand, block = name[0], name[1]
        if len(name) == 3 and name[2] is not None:
            shorthand = f"{name[2]}.hook_{shorthand}"
    else:
        shorthand, block = _split_block(name, available)
    candidates = list(available)
    if block is not None:
        n_blocks = n_blocks or len({full.split(".")[1] for full in available if full.startswith("blocks.")})
        if not -n_blocks <= block < n_blocks:
            raise InputError(f"hook {name!r}: there is no block {block}, the model has blocks 0 to {n_blocks - 1}")
        candidates = [full for full in available if full.startswith(f"blocks.{block % n_blocks}.")]
    found = [full for full in candidates if _is_short_for(shorthand, full)]
    if not found:
        short = {full.rsplit("hook_", 1)[-1] for full in available}
        near = nearest(shorthand, [*sorted(short), *available])
        raise InputError(f"no hook point is called {name!r}; the nearest names are {near}")
    return found


def _split_block(name: str, available: Collection[str]) -> tuple[str, int | None]:
    """ "resid_post5" → ("resid_post", 5); a name that is already right stays whole."""
    if any(_is_short_for(name, full) for full in available):
        return name, None
    parts = re.fullmatch(r"([a-z_]+?)_?(\d+)", name)
    return (parts[1], int(parts[2])) if parts else (name, None)


def _is_short_for(shorthand: str, full: str) -> bool:
    if full.startswith("pool.") and not shorthand.startswith("pool."):
        # "pattern" means the blocks' patterns; that of attention pooling is "pool.pattern".
        return False
    return f".{full}".endswith((f".{shorthand}", f".hook_{shorthand}")) or full.replace("hook_", "") == shorthand
