"""Models for the analyses' tests: every variant that has a classifier, and a few by name."""

from functools import partial

import pytest
import torch
from lending import lent
from variants import OTHERS, VARIANTS, pictures

from vitlens import HookedViT

ALL = VARIANTS | OTHERS
CLASSIFIERS = [name for name in ALL if name != "no_classifier"]


def build(name: str) -> HookedViT:
    """A variant; those without a classifier are given one."""
    model = HookedViT.from_timm(ALL[name]())
    if model.unembed is None and name != "no_classifier":
        generator = torch.Generator().manual_seed(1)
        model.set_class_embeddings(torch.randn(10, model.cfg.d_model, generator=generator, dtype=torch.float64))
    return model


def borrow(name: str):
    """A variant that other tests use too; `build` makes one of one's own."""
    return lent(("port", name), partial(build, name))


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
