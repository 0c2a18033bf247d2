"""Models for the analyses' tests: every variant that has a classifier, and a few by name."""

import pytest
import torch
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


@pytest.fixture(params=CLASSIFIERS)
def classifier(request) -> HookedViT:
    return build(request.param)


@pytest.fixture
def plain() -> HookedViT:
    return build("class_token")


@pytest.fixture
def distilled() -> HookedViT:
    return build("distilled")


@pytest.fixture
def headless() -> HookedViT:
    return build("no_classifier")


@pytest.fixture
def images_of():
    """Seeded pictures for a model."""

    def make(model: HookedViT, n: int, seed: int = 0) -> torch.Tensor:
        return pictures(model.cfg, n, seed)

    return make
