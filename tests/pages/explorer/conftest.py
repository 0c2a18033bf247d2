"""The models of the analyses' tests, and the demo's explorer with what its page holds."""

import gzip

import numpy as np
import pytest
import safetensors.numpy
from browser import open_in
from ported import build
from variants import pictures

from vitlens import explore
from vitlens.demo import load_demo_model, load_demo_pictures

VIEW = "document.getElementById('explorer').view"


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


@pytest.fixture(scope="module")
def opened(browser, page_file):
    """The page, opened once."""
    page = open_in(browser, page_file, 1440, 900)
    yield page
    page.page.context.close()


@pytest.fixture
def page(opened):
    """The page as it opens: every test begins there, and leaves no complaint."""
    choose(opened.page, picture=0, tokens=[], block=5, head=None, baseline=None, board="direct", scale="fixed")
    first = opened.page.evaluate(f"{VIEW}.facts.pictures[0].classes[0]")
    choose(
        opened.page, **{"class": first}, layer="heatmap", quantity="probability", beside=None, against=None, threshold=0
    )
    yield opened.page
    assert opened.complaints == []
    assert opened.requests == []


def choose(page, **changes) -> None:
    page.evaluate(f"(changes) => {VIEW}.choose(changes)", changes)
