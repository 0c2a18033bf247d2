"""With an older timm (make test-oldest), tests of what it lacks are skipped with that reason."""

import traceback

import pytest
import timm


def pytest_configure(config):
    config.addinivalue_line("markers", "verified_timm: true of the verified timm alone, of its registry or messages")


def _lacks(error: Exception) -> str | None:
    """Why this timm cannot do what a test asked of it; None if the error has another cause."""
    # Not above: jaxtyping checks the types of what is imported after pytest is configured.
    from vitlens.model.porting.timm_versions import VERIFIED

    if timm.__version__ == VERIFIED:
        return None
    said = str(error)
    by_timm = "/timm/" in traceback.extract_tb(error.__traceback__)[-1].filename
    refused = f"install timm {VERIFIED}" in said or said.startswith(
        ("timm knows no", "timm cannot build", "timm could not get")
    )
    placeholder = isinstance(error, TypeError) and said.endswith("() takes no arguments")
    return f"timm {timm.__version__}: {said or type(error).__name__}" if by_timm or refused or placeholder else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    from vitlens.model.porting.timm_versions import VERIFIED

    if item.get_closest_marker("verified_timm") and timm.__version__ != VERIFIED:
        pytest.skip(f"timm {timm.__version__} is not the verified {VERIFIED}")
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    return (yield from _skipping())


def _skipping():
    try:
        return (yield)
    except Exception as error:
        reason = _lacks(error)
        if reason is not None:
            pytest.skip(reason)
        raise
