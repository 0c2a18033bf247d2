"""Restores what a call changes outside of itself, however it ends: gradients, hooks, random numbers."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from transformer_lens import HookedRootModule

from vitlens.model.hooks.hook_points import set_hooks

Guarded = TypeVar("Guarded", bound=Callable[..., Any])


def leaves_state(function: Guarded) -> Guarded:
    """Decorates a public function: it restores hooks, gradients and random numbers, also after Ctrl-C.

    Ctrl-C between two bytecodes of `torch.no_grad`, or of any other context manager written in Python, skips its exit.
    Then gradients would stay off in the whole process, or hooks on the model. Only `try` and `finally` in the frame
    around them cannot be skipped.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        gradients, random_numbers = torch.is_grad_enabled(), torch.get_rng_state()
        models = [value for value in (*args, *kwargs.values()) if isinstance(value, HookedRootModule)]
        before = {id(handle) for model in models for _, handle in set_hooks(model)}
        try:
            return function(*args, **kwargs)
        except BaseException:
            for point, handle in (pair for model in models for pair in set_hooks(model)):
                if point.is_called_here(handle) and id(handle) not in before:
                    point.remove(handle)
            torch.set_rng_state(random_numbers)
            raise
        finally:
            torch.set_grad_enabled(gradients)

    assert not inspect.isgeneratorfunction(function), "a generator would hold its state open between two of its values"
    return cast(Guarded, guarded)
