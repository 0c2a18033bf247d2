"""How often the types and shapes of arguments and results are checked, which takes longer than what it checks.

`make test-all` checks every call of every test. `make test` checks the first CALLS calls of each function in a test. Where a
test has many cases, as where it runs on every model, it checks CASES of them, spread over all. A test that is marked
`all_types` is checked whole.
"""

from collections import defaultdict

import pytest
from lazy_checks import limit

CALLS, CASES = 3, 4
_unchecked: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "all_types: types and shapes are checked in every call and case")


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
        limit.begin_test(float("inf"))
    else:
        limit.begin_test(0 if item.nodeid in _unchecked else CALLS)
