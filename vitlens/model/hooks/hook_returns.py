"""Checks a user's hook and what it returns, at the hook itself: a wrong tensor would fail later, or be broadcast."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError


def checked(user_hook: Callable) -> Callable:
    """The hook, whose return value is checked.

    Raises:
        InputError: it is no function of (activation, hook).
    """
    _require_hook(user_hook)

    def called(activation: Tensor, hook: HookPoint) -> Any:
        returned = user_hook(activation, hook=hook)
        if returned is not None:
            _require_like(returned, activation, str(hook.name))
        return returned

    return called


def _require_hook(user_hook: Any) -> None:
    if not callable(user_hook):
        raise InputError(f"a hook is a function of (activation, hook), not {user_hook!r}")
    try:
        parameters = inspect.signature(user_hook)
    except (TypeError, ValueError):
        return
    try:
        parameters.bind(None, hook=None)
    except TypeError as error:
        raise InputError(
            f"a hook is called as function(activation, hook=hook), and {user_hook!r} is not: {error}"
        ) from None


def _require_like(returned: Any, activation: Tensor, name: str) -> None:
    # A backward hook may give its gradient as torch wants it, in a tuple.
    (value,) = returned if isinstance(returned, tuple) and len(returned) == 1 else (returned,)
    if not isinstance(value, Tensor):
        what, wanted = type(value).__name__, f"a tensor {list(activation.shape)}"
    elif value.shape != activation.shape:
        what, wanted = str(list(value.shape)), f"{list(activation.shape)} (expand what is the same for all pictures)"
    elif value.device != activation.device:
        what, wanted = f"a tensor on {value.device}", f"one on {activation.device}"
    elif value.dtype != activation.dtype and not torch.is_autocast_enabled(activation.device.type):
        what, wanted = str(value.dtype), str(activation.dtype)
    else:
        return
    raise InputError(f"the hook at {name} returned {what}: it must return {wanted}, or None to leave the activation")
