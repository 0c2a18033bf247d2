"""Tests import the helpers beside them; every variant of the port by name; one browser for all."""

import gc
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

# Before anything of vitlens, whose functions it decorates.
import lazy_checks  # noqa: F401
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

# What is imported stays: to look for garbage there is to walk through half a million objects, again and again.
gc.disable()

# The models are tiny: threads would wait for each other longer than they compute.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    """From here on there is garbage; what is there by now is left out."""
    gc.freeze()
    gc.enable()


@pytest.fixture(params=list(VARIANTS))
def module(request):
    """A small timm model."""
    with lent(("timm", request.param), VARIANTS[request.param]) as module:
        yield module


@pytest.fixture
def model(module):
    """Its port."""
    with lent(("port of", module), partial(HookedViT.from_timm, module)) as model:
        yield model


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
