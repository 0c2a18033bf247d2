"""The models of the analyses' tests, and the demo's explorer with what its page holds."""

import gzip

import numpy as np
import pytest
import safetensors.numpy
from ported import build
from variants import pictures

from vitlens import explore
from vitlens.demo import load_demo_model, load_demo_pictures


def unpack(picture: bytes) -> dict[str, np.ndarray]:
    """The tensors that a page holds of a picture."""
    return safetensors.numpy.load(gzip.decompress(picture))


@pytest.fixture
def variant():
    """A variant by its name, and pictures for it."""

    def make(name: str, n: int):
        model = build(name)
        return model, pictures(model.cfg, n)

    return make


@pytest.fixture(scope="session")
def demo():
    """The demo model and four of its pictures."""
    model = load_demo_model()
    return model, load_demo_pictures(model).paths[:4]


@pytest.fixture(scope="session")
def explorer(demo):
    return explore(*demo, progress=False)


@pytest.fixture(scope="session")
def page_file(explorer, tmp_path_factory):
    out = tmp_path_factory.mktemp("explorer") / "page.html"
    explorer.save(out)
    return out
