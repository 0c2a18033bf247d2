"""Tests import the helpers beside them; every variant of the port by name."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from variants import VARIANTS

from vitlens import HookedViT


@pytest.fixture(params=list(VARIANTS))
def module(request):
    """A small timm model."""
    return VARIANTS[request.param]()


@pytest.fixture
def model(module):
    """Its port."""
    return HookedViT.from_timm(module)
