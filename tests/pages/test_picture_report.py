"""The one-picture page in a real browser: it draws, needs no network, shows the numbers that Python has, escapes text."""

import pytest
import torch
from browser import figures, trace

from vitlens import InputError, class_lens, direct_logit_attribution
from vitlens.demo import demo_folder, load_demo_model, load_demo_pictures
from vitlens.pages.picture_report import write_picture_report


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


@pytest.fixture(scope="module")
def paths(model):
    return load_demo_pictures(model).paths


@pytest.fixture(scope="module")
def page_file(model, paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "page.html"
    write_picture_report(model, paths[0], path=out, corrupted=paths[1], progress=False)
    return out


def test_the_page_draws_everything_without_network_or_complaint(open_page, page_file):
    opened = open_page(page_file)
    assert opened.complaints == []
    assert opened.requests == []
    shown = figures(opened)
    assert len(shown) == 14
    assert all(figure["title"] and figure["subtitle"] for figure in shown)
    assert page_file.stat().st_size < 15 * 2**20
    assert page_file.read_text().count("plotly.js v") <= 3, "plotly's script is embedded once"


@pytest.mark.parametrize("width", [390, 1366, 3840])
def test_nothing_sticks_out_at_any_width(open_page, page_file, width):
    opened = open_page(page_file, width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(0 < figure["width"] <= width for figure in figures(opened))


def test_the_browser_shows_pythons_numbers(open_page, page_file, model, paths):
    images = model.to_images(paths[0])
    predicted = int(model(images).argmax())
    opened = open_page(page_file)
    attribution = direct_logit_attribution(model, images, predicted)
    shown = torch.tensor(trace(opened, "Who writes", 0, "y")[:-1])
    torch.testing.assert_close(shown, attribution.values[0, 0], rtol=1e-5, atol=1e-5)
    lens = class_lens(model, images, predicted, tokens="class")
    probabilities = torch.tensor(trace(opened, "How the class emerges", 0, "y"))
    torch.testing.assert_close(probabilities, lens.probabilities[0, :, 0, 0, 0], rtol=1e-5, atol=1e-6)
    maps = class_lens(model, images, predicted, tokens="patches").maps()
    last = torch.tensor(trace(opened, "How much each patch by itself", model.cfg.n_layers - 1, "z"))
    torch.testing.assert_close(last.reshape(maps[-1].shape), maps[-1], rtol=1e-5, atol=1e-5)
    subtitle = next(figure for figure in figures(opened) if figure["title"].startswith("Who writes"))["subtitle"]
    assert "sum − logit" in subtitle


def test_text_from_outside_stays_text(open_page, tmp_path, paths):
    model = load_demo_model()
    evil = "<img src=x onerror=console.error('run')><b>bold</b>"
    model.class_names = [evil, *model.class_names[1:]]
    picture = tmp_path / "<script>console.error('name')</script>.png".replace("/", "∕")
    picture.write_bytes(paths[0].read_bytes())
    out = tmp_path / "page.html"
    write_picture_report(model, picture, path=out, classes=0, progress=False)
    opened = open_page(out)
    assert opened.complaints == []
    assert "<b>bold</b>" in opened.page.inner_text("body")
    assert opened.page.evaluate("document.querySelectorAll('main img, main b').length") == 0


def test_head_and_class_are_as_asked(open_page, tmp_path, model, paths):
    out = tmp_path / "page.html"
    write_picture_report(model, paths[0], path=out, classes="bag", head="l2h1", progress=False)
    titles = [figure["title"] for figure in figures(open_page(out))]
    assert any("L2H1" in title for title in titles)
    assert any("“bag”" in title for title in titles)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"head": "9.3"}, "L9H3"),
        ({"head": "L9H0"}, "L0H0 to L5H3"),
        ({"classes": "sock"}, "nearest names"),
        ({"classes": 10}, "classes 0 to 9"),
        ({"corrupted": "nothing.png"}, "no file"),
    ],
)
def test_wrong_input_leaves_no_file(model, paths, tmp_path, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        write_picture_report(model, paths[0], path=tmp_path / "page.html", progress=False, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_output_place_is_checked_first(model, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        write_picture_report(model, "nothing.png", path=tmp_path / "missing" / "page.html")
    with pytest.raises(InputError, match="is a folder"):
        write_picture_report(model, "nothing.png", path=tmp_path)


def test_the_demo_folder_is_complete():
    assert {path.name for path in demo_folder().iterdir()} >= {
        "LICENSE.md",
        "model.json",
        "model.safetensors",
        "pictures.csv",
        "pictures",
        "masks",
    }
