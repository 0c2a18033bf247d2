"""Figures of heatmaps: they show the maps' numbers on scales of their own, escape text, and a browser draws them."""

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from vitlens import InputError
from vitlens.pages.page import Section, write_page
from vitlens.plots.heatmaps import heatmap_comparison, heatmap_overlay
from vitlens.plots.shared.picture import GLAZE, SIGNED_GLAZE

RISKY = "<b>tabby</b><script>alert(1)</script>"
WARNING = "3 artefact tokens (4.2 % of the patches) carry 41 % of this map"


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(48, 96, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def maps():
    generator = torch.Generator().manual_seed(1)
    names = ["occlusion", "patching", "attention", "<i>centre</i>", "nothing", *(f"method {i}" for i in range(12))]
    found = {name: torch.randn(6, 4, generator=generator) * 10.0 ** (i % 5 - 2) for i, name in enumerate(names)}
    found["nothing"] = torch.zeros(6, 4)
    found["attention"] = found["attention"].abs()
    return found


def comparison(pixels, maps, **options):
    chosen = {"signed": {"occlusion", "patching"}, "warnings": {"attention": WARNING, "occlusion": None}, **options}
    return heatmap_comparison(pixels, maps, class_name=RISKY, model_name="<i>vit</i>", **chosen)


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_every_method_stands_on_its_own_scale(pixels, maps):
    tiles = heatmaps(comparison(pixels, maps))[1:]
    assert len(tiles) == len(maps) == 17
    for tile, (name, values) in zip(tiles, maps.items(), strict=True):
        np.testing.assert_array_equal(tile.z, values.numpy())
        if name in ("occlusion", "patching"):
            assert tile.zmid == 0
            assert tile.zmax == -tile.zmin == pytest.approx(values.abs().max().item())
        elif name != "nothing":
            assert (tile.zmin, tile.zmax) == pytest.approx((values.min().item(), values.max().item()))
            assert tile.zmid is None
    colours = {name: tile.colorscale for tile, name in zip(tiles, maps, strict=True)}
    assert colours["occlusion"] == colours["patching"] == go.Heatmap(colorscale=SIGNED_GLAZE).colorscale
    assert colours["attention"] == colours["nothing"] == go.Heatmap(colorscale=GLAZE).colorscale


def test_titles_say_what_is_needed(pixels, maps):
    figure = comparison(pixels, maps)
    assert figure.layout.title.text == (
        "Where “&lt;b&gt;tabby&lt;/b&gt;&lt;script&gt;alert(1)&lt;/script&gt;” came from, by 17 methods"
    )
    subtitle = figure.layout.title.subtitle.text
    assert subtitle.startswith("&lt;i&gt;vit&lt;/i&gt;; every map on its own scale")
    assert "positive speaks for the class" in subtitle
    assert "positive" not in comparison(pixels, {"attention": maps["attention"]}).layout.title.subtitle.text
    texts = [annotation.text for annotation in figure.layout.annotations]
    assert texts[0] == "the picture"
    for name, written in zip(maps, texts[1:18], strict=True):
        assert written.startswith(name.replace("<", "&lt;").replace(">", "&gt;") + "<br>")
    low, high = maps["attention"].min(), maps["attention"].max()
    assert f"{low:.3g} … {high:.3g}" in texts[3]
    assert "0 everywhere" in texts[5]
    assert len(texts) == 19
    assert texts[18].replace("<br>", " ") == f"⚠ {WARNING}"


def test_a_warning_lies_on_its_own_tile(pixels, maps):
    figure = comparison(pixels, maps)
    # The third map is the fourth tile.
    assert figure.layout.annotations[18].xref == f"{heatmaps(figure)[3].xaxis} domain"
    escaped = heatmap_overlay(pixels, maps["attention"], "a", warning="<b>1</b> token").layout.annotations[0]
    assert escaped.text == "⚠ &lt;b&gt;1&lt;/b&gt; token"


def test_one_map_over_its_picture(pixels, maps):
    figure = heatmap_overlay(pixels, maps["occlusion"], f"Occlusion: {RISKY}", signed=True, subtitle="a < b")
    assert figure.layout.title.text.startswith("Occlusion: &lt;b&gt;tabby")
    assert figure.layout.title.subtitle.text == "a &lt; b; positive speaks for it, negative against"
    shown = heatmaps(figure)[1]
    np.testing.assert_array_equal(shown.z, maps["occlusion"].numpy())
    assert shown.zmid == 0
    plain = heatmaps(heatmap_overlay(pixels, maps["attention"], "a"))[1]
    assert (plain.zmin, plain.zmax) == pytest.approx((maps["attention"].min().item(), maps["attention"].max().item()))
    # Patches of 8 × 24 pixels.
    assert figure.layout.yaxis.scaleratio == figure.layout.yaxis2.scaleratio == pytest.approx(8 / 24)


def test_maps_that_do_not_fit_each_other(pixels):
    with pytest.raises(InputError, match="on one grid"):
        heatmap_comparison(pixels, {"a": torch.zeros(2, 2), "b": torch.zeros(3, 2)})
    with pytest.raises(InputError, match="at least one and all on one grid"):
        heatmap_comparison(pixels, {})


@pytest.mark.parametrize("width", [390, 1366])
def test_a_browser_draws_them(pixels, maps, tmp_path, open_page, width):
    path = tmp_path / "page.html"
    figures = [
        comparison(pixels, maps),
        heatmap_comparison(pixels, {"one": maps["occlusion"]}, columns=1),
        heatmap_overlay(pixels, maps["occlusion"], RISKY, signed=True, warning=RISKY),
    ]
    write_page(path, "heatmaps", {}, [Section(f"figure {i}", "", [figure]) for i, figure in enumerate(figures)])
    opened = open_page(path, width)
    assert not opened.complaints
    assert not opened.requests
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = opened.page.evaluate("document.querySelectorAll('.heatmaplayer .hm').length")
    assert drawn == 18 + 2 + 2
    # Escaped text is drawn as it was written.
    titles = opened.page.evaluate("[...document.querySelectorAll('.gtitle')].map(title => title.textContent)")
    assert RISKY in titles[0]
    assert titles[2] == RISKY
    opened.page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
