"""Hook points: the class, how an activation passes through one, and how names are resolved."""

import difflib
import re
import threading
from collections.abc import Callable, Collection, Iterable
from numbers import Integral
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint, LensHandle

from vitlens.errors import InputError, nearest
from vitlens.model.hooks.hook_returns import checked

HookName = str | tuple[str, int] | tuple[str, int, str | None]
#: What `run_with_hooks` takes: names or filters of names, and what is called there.
Hooks = list[tuple[str | Callable[..., Any], Callable[..., Any]]]
NamesFilter = None | HookName | Iterable[HookName] | Callable[[str], bool]

# `HookPoint.pos_dim` of an activation that has no token axis; TransformerLens itself knows only "default" (None).
NO_TOKENS = 0


# Two threads may add and remove hooks of one point at the same time.
_CHANGING = threading.Lock()
Direction = Literal["fwd", "bwd"]


class OwnedHookPoint(HookPoint):
    """A hook point whose temporary hooks belong to the thread that set them, so that several threads can run one model.

    Hooks of `model.hooks` and of a run are temporary; `add_hook` changes the model, for every thread.
    """

    def add_hook(
        self,
        hook: Callable,
        dir: Direction = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
        alias_names: list[str] | None = None,
    ) -> LensHandle:
        owner = None if level is None else threading.get_ident()
        called: Any = hook if isinstance(hook, Reader) else checked(hook)
        if owner is not None and dir == "fwd":
            called = _in_thread(owner, called)
        with _CHANGING:
            handle = super().add_hook(called, dir, is_permanent, level, prepend, alias_names)
            handle.user_hook = hook
            handle.owner = owner  # type: ignore[attr-defined]
        return handle

    def has_hooks(
        self, dir: Direction | Literal["both"] = "both", including_permanent: bool = True, level: int | None = None
    ) -> bool:
        """Whether a run in this thread would call a hook here."""
        if not (self.fwd_hooks or self.bwd_hooks):
            return False
        return any(map(self.is_called_here, self._handles(dir, including_permanent, level)))

    def remove_hooks(
        self,
        dir: Direction | Literal["both"] = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """As TransformerLens' `remove_hooks`; temporary hooks of another thread that still runs stay."""
        if not (self.fwd_hooks or self.bwd_hooks):
            return
        running = {thread.ident for thread in threading.enumerate()}
        for handle in self._handles(dir, including_permanent, level):
            if self.is_called_here(handle) or _owner(handle) not in running:
                self.remove(handle)

    def remove(self, handle: LensHandle) -> None:
        """Takes one hook away."""
        handle.hook.remove()
        with _CHANGING:
            self.fwd_hooks = [other for other in self.fwd_hooks if other is not handle]
            self.bwd_hooks = [other for other in self.bwd_hooks if other is not handle]

    @staticmethod
    def is_called_here(handle: LensHandle) -> bool:
        """Whether a run in this thread calls the hook."""
        return _owner(handle) in (None, threading.get_ident())

    def _handles(self, dir: str, including_permanent: bool, level: int | None) -> list[LensHandle]:
        handles = [*(self.fwd_hooks if dir != "bwd" else []), *(self.bwd_hooks if dir != "fwd" else [])]
        return [
            handle
            for handle in handles
            if (including_permanent or not handle.is_permanent) and level in (None, handle.context_level)
        ]

    def forward(self, x: Tensor) -> Tensor:
        # A backward hook runs in a thread of autograd, where it is not known which run it belongs to.
        if self.bwd_hooks and torch.is_grad_enabled() and not all(map(self.is_called_here, self.bwd_hooks)):
            raise InputError(
                f"another thread has set backward hooks at {self.name}, which would also see this thread's gradients: "
                "run one after the other, or give each thread a model of its own"
            )
        return x


def _in_thread(owner: int, user_hook: Callable) -> Callable:
    def called(activation: Tensor, hook: HookPoint) -> Tensor | None:
        return user_hook(activation, hook=hook) if threading.get_ident() == owner else None

    return called


def _owner(handle: LensHandle) -> int | None:
    return getattr(handle, "owner", None)


def set_hooks(model: HookedRootModule) -> list[tuple[OwnedHookPoint, LensHandle]]:
    """Every hook that is set on a model, with its point."""
    points = [cast(OwnedHookPoint, point) for point in model.hook_dict.values()]
    return [(point, handle) for point in points for handle in (*point.fwd_hooks, *point.bwd_hooks)]


def hook_point(token_axis: int = -2) -> HookPoint:
    """Makes a hook point with the token axis of its activation, which `pos_slice` cuts."""
    point = OwnedHookPoint()
    point.pos_dim = token_axis
    return point


def expose(point: HookPoint, activation: Tensor) -> Tensor:
    """Passes an activation through its hook point, as a copy if a hook may edit it and the original is still needed.

    Needed because it shares memory with another activation or a parameter, or because its gradient is computed from
    it. A hook may then edit in place, and the edit reaches what follows and nothing else. Caches only read.
    """
    only_read = not point.bwd_hooks and all(isinstance(handle.user_hook, Reader) for handle in point.fwd_hooks)
    return point(activation if only_read else activation.clone())


def hook_name(block: int, site: str) -> str:
    """The full name of a block's hook point: (3, "resid_post") is "blocks.3.hook_resid_post", (3, "attn.pattern")
    "blocks.3.attn.hook_pattern"."""
    part, dot, name = site.rpartition(".")
    return f"blocks.{block}.{part}{dot}hook_{name}"


def block_and_site(name: str) -> tuple[int, str] | None:
    """The block and the site of a hook name, the inverse of `hook_name`; None outside the blocks."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.*?)hook_(\w+)", name)
    return (int(found[1]), found[2] + found[3]) if found else None


class Reader:
    """A hook that reads its activation and never edits it, so no copy is needed."""

    def __init__(self, read: Callable[[Tensor, HookPoint], None]) -> None:
        self.read = read

    def __call__(self, activation: Tensor, hook: HookPoint) -> None:
        self.read(activation, hook)

    def __repr__(self) -> str:
        # TransformerLens names torch's hooks by this: the representation of what is read would be long.
        return "Reader"


def resolve_names(names: NamesFilter, available: Collection[str], n_blocks: int | None = None) -> list[str]:
    """The full names of the hook points that a filter names, in the order of the forward pass.

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
    elif isinstance(names, str) or _begins_like_key(names) or not isinstance(names, Iterable):
        return _matches(cast(HookName, names), available, n_blocks)
    else:
        chosen = {match for name in names for match in _matches(cast(HookName, name), available, n_blocks)}
        if not chosen:
            raise InputError("the list of hook names is empty: name at least one, or pass None for all")
    return [name for name in available if name in chosen]


def _is_key(names: object) -> bool:
    """("resid_post", 5), or ("scale", 5, "ln1") as in TransformerLens."""
    return (
        isinstance(names, tuple)
        and len(names) in (2, 3)
        and isinstance(names[0], str)
        and isinstance(names[1], Integral)
        and not isinstance(names[1], bool)
        and (len(names) == 2 or names[2] is None or isinstance(names[2], str))
    )


def _begins_like_key(names: object) -> bool:
    """Whether this is a key or was meant as one: ("resid_post", [1, 2]) is no list of names."""
    return (
        isinstance(names, tuple)
        and len(names) > 1
        and isinstance(names[0], str)
        and not isinstance(names[1], (str, tuple))
    )


def _matches(name: HookName, available: Collection[str], n_blocks: int | None) -> list[str]:
    if isinstance(name, str) and name in available:
        # A full name: the usual case by far, and a run may have hundreds of them.
        return [name]
    if not isinstance(name, str) and not _is_key(name):
        raise InputError(
            'a hook point is named by its full name, a shorthand ("resid_post", "resid_post5"), or a key with one block '
            f'("resid_post", 5), not by {name!r}{_several(name)}'
        )
    block: int | None
    if isinstance(name, tuple):
        shorthand, block = name[0], int(name[1])
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
        raise InputError(
            f"no hook point is called {name!r}; the nearest names are {_near(name, candidates, available)}"
        )
    return found


def _near(name: HookName, candidates: list[str], available: Collection[str]) -> str:
    """The names nearest to one that matches nothing, in its spelling; each of them matches."""
    if isinstance(name, str) and "." in name:
        return nearest(name, available)
    shorthand, block = (name[0], name[1]) if isinstance(name, tuple) else _split_block(name, available)
    # A cache may hold nothing of that block.
    pool = candidates or list(available)
    by_site: dict[str, list[str]] = {}
    for full in pool:
        by_site.setdefault(full.rsplit("hook_", 1)[-1], []).append(full)
    close = [shorthand] if shorthand in by_site else difflib.get_close_matches(shorthand, by_site, n=5, cutoff=0.5)
    close = close or list(by_site)
    if isinstance(name, str) and (block is None or not candidates):
        return ", ".join(close)
    if isinstance(name, str):
        return ", ".join(f"{site}{block}" for site in close)
    return ", ".join(f"({typed_key(shortest_key(full, available))})" for site in close for full in by_site[site][:4])


def shortest_key(full: str, available: Collection[str]) -> HookName:
    """The shortest key that means this hook point and no other: ("resid_post", 3), ("scale", 3, "ln1"), "logits"."""
    place, _, site = full.rpartition("hook_")
    parts = place.rstrip(".").split(".")
    if parts[0] != "blocks":
        return site if len(_matches(site, available, None)) == 1 else full.replace("hook_", "")
    block = int(parts[1])
    in_block = [other for other in available if other.startswith(f"blocks.{block}.")]
    alone = sum(_is_short_for(site, other) for other in in_block) == 1
    return (site, block) if alone else (site, block, ".".join(parts[2:]))


def typed_key(key: HookName) -> str:
    """A key as it is typed between the brackets of a cache."""
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in parts if part is not None)


def _several(key: object) -> str:
    """Advice for a key that names several blocks."""
    if not (isinstance(key, tuple) and isinstance(key[1], Iterable)):
        return ""
    return f': for several blocks use [cache["{key[0]}", block] for block in ...] or cache.stack_activation("{key[0]}")'


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
