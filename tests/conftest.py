"""Tests import the helpers beside them; every variant of the port by name; one browser for all."""

import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from browser import browser, open_page
from lending import lent
from outliers import planted
from ported import CLASSIFIERS, borrow
from variants import VARIANTS, pictures

from vitlens import HookedViT

pytest_plugins = ["type_checks", "older_timm"]

__all__ = ["browser", "open_page", "planted"]

ASSETS = Path(__file__).parents[1].parent / "shared" / "assets"

# A suite that runs in the background inherits that interrupts are ignored; some tests are about interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The models are tiny: threads would wait for each other longer than they compute.
torch.set_num_threads(1)


@pytest.fixture(params=list(VARIANTS))
def module(request):
    """A small timm model."""
    with lent(("timm", request.param), VARIANTS[request.param]) as module:
        yield module


@pytest.fixture
def model(module):
    """Its port."""
    return HookedViT.from_timm(module)


@pytest.fixture
def assets():
    """The folder of trained weights and photographs beside the repository."""
    if not ASSETS.is_dir():
        pytest.skip(f"there is no {ASSETS}")
    return ASSETS


@pytest.fixture(params=CLASSIFIERS)
def classifier(request):
    with borrow(request.param) as model:
        yield model


@pytest.fixture
def plain():
    with borrow("class_token") as model:
        yield model


@pytest.fixture
def distilled():
    with borrow("distilled") as model:
        yield model


@pytest.fixture
def headless():
    with borrow("no_classifier") as model:
        yield model


@pytest.fixture
def images_of():
    """Seeded pictures for a model."""

    def make(model: HookedViT, n: int, seed: int = 0) -> torch.Tensor:
        return pictures(model.cfg, n, seed)

    return make
