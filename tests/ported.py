"""Ports of the variants, for the analyses' tests: those without a classifier are given one."""

from functools import partial

import pytest
import torch
from composed import COMPOSED, SINGLES
from lending import lent
from variants import OTHERS, VARIANTS

from vitlens import HookedViT

ALL = VARIANTS | OTHERS
CLASSIFIERS = [name for name in ALL if name != "no_classifier"]
#: For what is derived from a model's runs, on which every variant is tried: all pairs of properties, in far fewer models.
DERIVED = [*COMPOSED, *(pytest.param(name, marks=pytest.mark.slow) for name in CLASSIFIERS)]

#: The same for what takes longest: every property once by default, and no pair twice.
DEAR = [
    *SINGLES,
    *(pytest.param(name, marks=pytest.mark.slow) for name in [*COMPOSED, *CLASSIFIERS] if name not in SINGLES),
]
on_each_property = pytest.mark.parametrize("classifier", DEAR, indirect=True)


def build(name: str) -> HookedViT:
    """A variant; those without a classifier are given one."""
    model = HookedViT.from_timm((ALL | COMPOSED)[name]())
    if model.unembed is None and name != "no_classifier":
        generator = torch.Generator().manual_seed(1)
        model.set_class_embeddings(torch.randn(10, model.cfg.d_model, generator=generator, dtype=torch.float64))
    return model


def borrow(name: str):
    """A variant that other tests use too; `build` makes one of one's own."""
    return lent(("port", name), partial(build, name))


@pytest.fixture(params=DERIVED, name="classifier")
def derived_classifier(request):
    """`classifier` in the folders whose conftest.py takes this one over that of all folders."""
    with borrow(request.param) as model:
        yield model
