"""Small dictionaries of any width; `classifier` is one of the composed models here, and each variant in make test-all."""

import pytest
import torch
from ported import borrow, build, derived_classifier

__all__ = ["derived_classifier"]


@pytest.fixture
def variant():
    """A variant by its name."""
    return build


@pytest.fixture(scope="module")
def model():
    """A small classifier that other tests use too."""
    with borrow("class_token") as borrowed:
        yield borrowed


@pytest.fixture(scope="module")
def images(model):
    """Eleven pictures of it: 110 tokens."""
    return torch.randn(11, 3, 48, 48, generator=torch.Generator().manual_seed(0)).to(model.dtype)


@pytest.fixture
def weights_of():
    """Seeded float64 weights W_enc, b_enc, W_dec, b_dec of a dictionary."""

    def make(d_in: int, n: int = 24, d_out: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

        d_out = d_in if d_out is None else d_out
        return {
            "W_enc": draw(d_in, n, scale=d_in**-0.5),
            "b_enc": draw(n, scale=0.3),
            "W_dec": draw(n, d_out, scale=n**-0.5),
            "b_dec": draw(d_out, scale=0.2),
        }

    return make


@pytest.fixture
def overcomplete(monkeypatch):
    """The library, which asks matplotlib at its import for a function that matplotlib has not any more."""
    colourmaps = pytest.importorskip("matplotlib").colormaps
    import matplotlib.cm

    if not hasattr(matplotlib.cm, "get_cmap"):
        monkeypatch.setattr(
            matplotlib.cm, "get_cmap", lambda name=None, lut=None: colourmaps[name or "viridis"], raising=False
        )
    pytest.importorskip("overcomplete")
    import overcomplete.sae

    return overcomplete.sae
