"""Models for the analyses' tests: every variant that has a classifier, and a few by name."""

import pytest
import torch
from variants import VARIANTS, pictures

from vitlens import HookedViT

CLASSIFIERS = [name for name in VARIANTS if name != "no_classifier"]


def build(name: str) -> HookedViT:
    return HookedViT.from_timm(VARIANTS[name]())


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
