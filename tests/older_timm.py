"""With an older timm (make test-oldest), tests of what it lacks are skipped with that reason."""

import traceback

import pytest
import timm


def _lacks(error: Exception) -> str | None:
    """Why this timm cannot do what a test asked of it; None if the error has another cause."""
    # Not above: jaxtyping checks the types of what is imported after pytest is configured.
    from vitlens.model.porting.timm_versions import VERIFIED

    if timm.__version__ == VERIFIED:
        return None
    said = str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    refused = f"install timm {VERIFIED}" in said
    unknown = "Unknown model" in said or said.startswith("timm knows no model")
    keyword = isinstance(error, TypeError) and "unexpected keyword argument" in said and "/timm/" in frame.filename
    placeholder = isinstance(error, TypeError) and said.endswith("() takes no arguments")
    return f"timm {timm.__version__}: {said}" if refused or unknown or keyword or placeholder else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
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
