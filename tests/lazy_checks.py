"""Checks of types and shapes that are made when a function is first called, and made of its first calls in a test.

jaxtyping makes the checks of a function when the function is defined, in a millisecond each; vitlens has thousands of them,
and a process calls some. A check takes longer than what most functions do: what calls a function a thousand times has it
checked as often as `limit` says. conftest.py imports this file before it imports vitlens.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import wraps
from inspect import isclass
from typing import Any

import jaxtyping

#: A function inside a function is defined again in each call of the outer one.
DEFINED_AGAIN = 4


@dataclass
class Limit:
    """How many calls of each function are checked in a test."""

    n_calls: float = float("inf")
    n_tests: int = 0

    def begin_test(self, n_calls: float) -> None:
        self.n_calls, self.n_tests = n_calls, self.n_tests + 1


limit = Limit()


class CheckedWhenCalled:
    """jaxtyping's decorator, which its import hook puts on every function and class of vitlens."""

    def __init__(self, decorator: Callable[..., Any]) -> None:
        self.decorator = decorator
        self.defined: Counter[Any] = Counter()

    def __call__(self, *positional: Any, **keywords: Any) -> Any:
        decorate = self.decorator(*positional, **keywords)
        return decorate if positional else lambda decorated: self.apply(decorated, decorate)

    def apply(self, decorated: Any, decorate: Callable[[Any], Any]) -> Any:
        if isclass(decorated):
            # Of a class, jaxtyping checks how a dataclass is made; an __init__ that was written is decorated already.
            made = vars(decorated).get("__init__")
            if is_dataclass(decorated) and made is not None and not hasattr(made, "__wrapped__"):
                decorated.__init__ = _checked_when_called(made, decorate)
            return decorated
        if "<locals>" in decorated.__qualname__ and limit.n_calls != float("inf"):
            self.defined[decorated.__code__] += limit.n_calls > 0
            if not limit.n_calls or self.defined[decorated.__code__] > DEFINED_AGAIN:
                return decorated
        return _checked_when_called(decorated, decorate)


def _checked_when_called(function: Callable[..., Any], decorate: Callable[[Any], Any]) -> Callable[..., Any]:
    settings, checked = jaxtyping.config, []
    test, left = -1, 0.0

    @wraps(function)
    def call(*positional: Any, **keywords: Any) -> Any:
        nonlocal test, left
        __tracebackhide__ = True
        if test != limit.n_tests:
            test, left = limit.n_tests, limit.n_calls
        if left <= 0 or settings.jaxtyping_disable:
            return function(*positional, **keywords)
        left -= 1
        if not checked:
            checked.append(decorate(function))
        return checked[0](*positional, **keywords)

    return call


jaxtyping.jaxtyped = CheckedWhenCalled(jaxtyping.jaxtyped)
