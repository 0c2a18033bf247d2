"""How often the types and shapes of arguments and results are checked, which takes longer than what it checks.

`make test-all` checks every call of every test. `make test` checks the first CALLS calls of a test. Where a test has many
cases, as where it runs on every model, it checks CASES of them, spread over all. A test that is marked `all_types` is
checked whole.

A function inside a function is made again in each call of the outer one, and making its checks takes half a millisecond:
`make test` checks the first NESTED that are made of each.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest

CALLS, CASES, NESTED = 2000, 4, 4
_unchecked: set[str] = set()


class FirstCalls(type(jaxtyping.config)):
    """jaxtyping's settings; every call of a function that could be checked asks them whether it is."""

    off = False
    left = float("inf")

    @property
    def jaxtyping_disable(self) -> bool:
        if self.off:
            return True
        self.left -= 1
        return self.left < 0

    @jaxtyping_disable.setter
    def jaxtyping_disable(self, off: bool) -> None:
        self.off = off


class FirstNested:
    """jaxtyping's decorator, which its import hook puts on every function of vitlens."""

    def __init__(self, decorator: Callable[..., Any]) -> None:
        self.decorator = decorator
        self.made: Counter[Any] = Counter()

    def __call__(self, *positional: Any, **keywords: Any) -> Any:
        decorate = self.decorator(*positional, **keywords)
        return decorate if positional else lambda function: self.once_more(function, decorate)

    def once_more(self, function: Any, decorate: Callable[[Any], Any]) -> Any:
        code = getattr(function, "__code__", None)
        if code is None or "<locals>" not in function.__qualname__ or jaxtyping.config.left == float("inf"):
            return decorate(function)
        self.made[code] += 1
        return decorate(function) if self.made[code] <= NESTED else function


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "all_types: types and shapes are checked in every call and case")
    jaxtyping.config.__class__ = FirstCalls
    jaxtyping.jaxtyped = FirstNested(jaxtyping.jaxtyped)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Chosen by their places, so that every run of the same tests checks the same."""
    cases = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item.nodeid)
    for names in cases.values():
        _unchecked.update(set(names) - {names[i * len(names) // CASES] for i in range(CASES)})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.option.markexpr != "not slow" or item.get_closest_marker("all_types"):
        jaxtyping.config.left = float("inf")
    else:
        jaxtyping.config.left = 0 if item.nodeid in _unchecked else CALLS
