"""The page of a description in a real browser: it draws, needs no network, shows the numbers that Python has."""

import dataclasses

import numpy as np
import pytest
import torch
from browser import figures, trace

from vitlens import InputError, load_demo
from vitlens.description.run import describe
from vitlens.pages.description_page import write_description_page
from vitlens.plots.description import KINDS


@pytest.fixture(scope="module")
def demo():
    model, images, *_ = load_demo()
    return model, images[:12]


@pytest.fixture(scope="module")
def described(demo):
    """With a threshold that the demo's patches cross, so that outliers and warnings are shown."""
    model, images = demo
    return describe(model, images, other_model=model, outlier_threshold=1.5, progress=False)


@pytest.fixture(scope="module")
def page_file(described, tmp_path_factory):
    out = tmp_path_factory.mktemp("description") / "page.html"
    write_description_page(described, path=out)
    return out


def test_the_page_draws_everything_without_network_or_complaint(open_page, page_file, described):
    opened = open_page(page_file)
    assert opened.complaints == []
    assert opened.requests == []
    shown = figures(opened)
    assert len(shown) == len(KINDS) == 11
    assert all(figure["title"] and figure["subtitle"] for figure in shown)
    assert page_file.stat().st_size < 8 * 2**20
    text = opened.page.inner_text("body")
    assert described.warnings
    for sentence in described.warnings:
        assert sentence[1:] in text


@pytest.mark.parametrize("width", [390, 1366])
def test_nothing_sticks_out_at_any_width(open_page, page_file, width):
    opened = open_page(page_file, width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    # A figure of many panels is wider than a phone and scrolled within its card.
    cards = opened.page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(card => card.getBoundingClientRect().right)"
    )
    assert len(cards) == len(figures(opened))
    assert max(cards) <= width
    titles = opened.page.evaluate(
        "[...document.querySelectorAll('h3')].map(title => title.scrollWidth - title.clientWidth)"
    )
    assert max(titles) <= 0
    assert all(figure["width"] <= max(width, 1000) for figure in figures(opened))
    if width < 700:
        assert not opened.page.is_visible(".modebar-btn")


def test_the_browser_shows_pythons_numbers(open_page, page_file, described):
    opened = open_page(page_file)

    def shown(*where) -> torch.Tensor:
        return torch.tensor(trace(opened, *where))

    def same(left: torch.Tensor, right: torch.Tensor) -> None:
        torch.testing.assert_close(left.flatten(), right.float().flatten(), rtol=1e-5, atol=1e-6)

    same(shown("Norms of tokens", 3, "y"), described.token_norms[:, 1, 2])
    same(shown("Norms of tokens", 4, "y"), described.outlier_share())
    same(shown("Outlier patches after block 4", 0, "z"), described.outlier_counts[4] / 12)
    same(shown("How far heads look", 0, "y"), described.fact("distance"))
    same(shown("How far and how evenly", 1, "z"), described.fact("patch_entropy").T)
    same(shown("What heads look at", 0, "z"), described.fact("patch_to_class").T)
    same(shown("The strongest keys", 2, "customdata"), described.fact("sink_concentration").T)
    same(shown("The strongest keys", 2, "z"), described.fact("sink_concentration").T.log10())
    same(shown("Which heads look alike", 0, "z"), described.head_similarity)
    same(shown("How alike blocks", 0, "z"), described.cka)
    same(shown("How alike two models", 0, "z"), described.cka_against)
    norms = described.example_norms[1, 0]
    # A picture, then its maps; the second picture's first map is trace 8 of six blocks' rows.
    n_maps = sum(
        kind == "heatmap" for figure in figures(opened) for kind in figure["types"] if "first" in figure["title"]
    )
    assert n_maps % 6 == 0
    same(shown("Norms of the patches over", n_maps // 6 + 1, "z"), norms / norms.median())


def test_sinks_are_shown_by_kind(described):
    events = torch.zeros_like(described.sink_events)
    events[0, 2, 1], events[1, 3, 0], events[2, 4, 2] = 12, 7, 6
    changed = dataclasses.replace(described, sink_events=events)
    figure = changed.plot("sinks")
    codes = torch.tensor(figure.data[0].z)
    assert codes.nonzero().tolist() == [[0, 3], [1, 2], [2, 4]]
    assert (codes[1, 2], codes[0, 3], codes[2, 4]) == (1, 2, 3)
    assert list(figure.data[0].colorbar.ticktext) == ["none", "no-op", "broadcast", "other"]
    tokens = np.array([[row[b] for row in described.sink_token()] for b in range(4)])
    assert figure.data[0].hovertext.tolist() == tokens.tolist()
    # A letter stands where there is a sink.
    assert figure.data[0].text.tolist() == [
        [token[0].upper() if code else "" for token, code in zip(*row, strict=True)]
        for row in zip(tokens, codes, strict=True)
    ]


def test_text_from_outside_stays_text(open_page, demo, tmp_path):
    model, images = demo
    evil = "<img src=x onerror=console.error('run')><b>bold</b>"
    described = describe(model, images, other_model=model, progress=False)
    described.settings["model"] = described.settings["against"] = evil
    write_description_page(described, path=tmp_path / "page.html", title=evil)
    opened = open_page(tmp_path / "page.html")
    assert opened.complaints == []
    assert "<b>bold</b>" in opened.page.inner_text("h1")
    assert opened.page.evaluate("document.querySelectorAll('main img, main b').length") == 0


def test_few_pictures_and_no_outliers(open_page, demo, tmp_path):
    model, images = demo
    described = describe(model, images[:2], n_examples=0, progress=False)
    described = dataclasses.replace(described, sink_events=torch.zeros_like(described.sink_events))
    write_description_page(described, path=tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    assert opened.complaints == []
    assert len(figures(opened)) == 8
    assert "No outlier patches and no sinks" in opened.page.inner_text("body")
    with pytest.raises(InputError, match="at least 4 pictures, and 2 were described"):
        described.plot("cka")
    with pytest.raises(InputError, match="no CKA between two models"):
        described.plot("cka_against")
    with pytest.raises(InputError, match="describe with n_examples=6"):
        described.plot("examples")
    with pytest.raises(InputError, match="no figure 'heads'; it has norms, "):
        described.plot("heads")


def test_every_figure_by_name(described):
    for name in KINDS:
        assert described.plot(name).to_json()
    assert described.plot("outliers", block=1).layout.title.text == "Outlier patches after block 1"


def test_the_output_place_is_checked_first(described, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        write_description_page(described, path=tmp_path / "missing" / "page.html")
    with pytest.raises(InputError, match="is a folder"):
        write_description_page(described, path=tmp_path)
