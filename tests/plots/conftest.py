"""The gallery's figures of the demo, and of a model in which everything is odd and every name is markup."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from variants import build, pictures

from vitlens import HookedViT, load_demo

SCRIPT = Path(__file__).parents[2] / "experiments" / "gallery.py"


def load_gallery() -> ModuleType:
    """experiments/gallery.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module
    spec.loader.exec_module(module)
    return module


gallery: Any = load_gallery()


def odd_model() -> HookedViT:
    """Four patches by two that are not square, two registers, no class token, and names that are markup."""
    module = build(img_size=(32, 96), patch_size=(16, 24), class_token=False, reg_tokens=2, global_pool="avg")
    model = HookedViT.from_timm(module)
    model.class_names = [f"<b>class {i}</b>" for i in range(model.cfg.n_classes)]
    model.cfg.model_name = "<i>odd</i>"
    return model


@pytest.fixture(scope="session")
def demo():
    """The demo's first pictures."""
    model, images, labels, masks = load_demo()
    return gallery.Subject(model, images[:5], labels[:5], masks[:5])


@pytest.fixture(scope="session")
def odd():
    model = odd_model()
    images = pictures(model.cfg, 5)
    return gallery.Subject(model, images, model(images).argmax(dim=-1))


@pytest.fixture(scope="session", params=["demo", "odd"])
def subject(request):
    return request.getfixturevalue(request.param)


def figures_of(subject) -> dict[str, dict[str, Any]]:
    """The gallery's figures by section and name."""
    with torch.no_grad():
        return {heading: gallery.drawn(heading, partial(group, subject)) for heading, group in gallery.GROUPS.items()}


@pytest.fixture(scope="session")
def demo_figures(demo):
    return figures_of(demo)


@pytest.fixture(scope="session")
def odd_figures(odd):
    return figures_of(odd)


@pytest.fixture(params=["demo", "odd"])
def every_figure(request):
    """The figures by "section: name"."""
    found = request.getfixturevalue(f"{request.param}_figures")
    return {f"{heading}: {name}": figure for heading, figures in found.items() for name, figure in figures.items()}
