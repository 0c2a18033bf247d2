"""How often the types and shapes of arguments and results are checked, which takes longer than what it checks.

`make test-all` checks every call of every test. `make test` checks every test function too, but where one function has many
cases, as where it runs on every model, only CHECKED of them, spread over all, or all of those that are marked `all_types`.
"""

from collections import defaultdict

import jaxtyping
import pytest

CHECKED = 4
_unchecked: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "all_types: types and shapes are checked in every case")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Chosen by their places, so that every run of the same tests checks the same."""
    if config.option.markexpr != "not slow":
        return
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("all_types") is None:
            cases[item.nodeid.partition("[")[0]].append(item.nodeid)
    for names in cases.values():
        _unchecked.update(set(names) - {names[i * len(names) // CHECKED] for i in range(CHECKED)})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    jaxtyping.config.update("jaxtyping_disable", item.nodeid in _unchecked)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
