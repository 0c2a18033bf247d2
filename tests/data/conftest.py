"""What users pass without looking at annotations."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Without the type checks that only tests have: what a wrong type meets outside of them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
