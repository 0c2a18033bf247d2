"""Every figure takes a title, a colour scale and a size; what it does not take is refused with what it takes."""

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from variants import build, pictures

import vitlens
from vitlens import HookedViT, InputError
from vitlens.plots.figure_of import choose
from vitlens.plots.shared.picture import as_pixels


@pytest.fixture(scope="module")
def results():
    model = HookedViT.from_timm(build())
    images = pictures(model.cfg, 2)
    return {
        "lens": vitlens.class_lens(model, images, [0, 1]),
        "heads": vitlens.direct_logit_attribution(model, images, unit="head", progress=False),
        "heatmap": vitlens.heatmap(model, images, method="legrad"),
        "signed": vitlens.heatmap(model, images, method="head_patch"),
        "attention": vitlens.attention(model, images),
    }


def scales(figure):
    own = [trace.colorscale for trace in figure.data if trace.type == "heatmap" and trace.coloraxis is None]
    return own + ([figure.layout.coloraxis.colorscale] if figure.layout.coloraxis.colorbar.title.text else [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("lens", "maps"), ("heads", None), ("heatmap", None), ("signed", None), ("attention", None)],
)
def test_title_size_and_colours(results, name, kind):
    figure = results[name].plot(kind, title="Figure 3a", colorscale="Cividis", width=700, height=410)
    assert figure.layout.title.text == "Figure 3a"
    assert figure.layout.title.subtitle.text
    assert (figure.layout.width, figure.layout.height) == (700, 410)
    cividis = go.Heatmap(colorscale="Cividis").colorscale
    assert scales(figure)
    assert all(scale == cividis for scale in scales(figure))
    # By hand, too: nothing overrules it.
    later = results[name].plot(kind).update_coloraxes(colorscale="Cividis").update_traces(colorscale="Cividis")
    assert all(scale == cividis for scale in scales(later))
    assert "autocolorscale" not in later.to_json()


def test_colours_that_stand_for_classes_stay(results):
    with pytest.raises(InputError, match="has no colour scale"):
        results["lens"].plot("mosaic", colorscale="Cividis")


def test_signed_values_have_the_themes_scale_till_then(results):
    figure = results["heads"].plot()
    assert set(scales(figure)) == {None}
    for template in ("vitlens", "vitlens_dark"):
        layout = pio.templates[template]
        assert layout.data.heatmap[0].colorscale == layout.layout.coloraxis.colorscale


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"titel": "x"}, "no option 'titel': it has .*image.*title, colorscale, width, height"),
        ({"quantity": "rank"}, r"plot\('maps', quantity=…\) has it"),
        ({"width": 3}, "width is a whole number of at least 10"),
        ({"colorscale": "Cividis"}, "no colour scale"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(results, options, sentence):
    with pytest.raises(InputError, match=sentence):
        results["lens"].plot(**options)


def test_unknown_colours_are_refused(results):
    with pytest.raises(InputError, match="not 'Viridia'; the nearest names are viridis"):
        results["heatmap"].plot(colorscale="Viridia")
    with pytest.raises(InputError, match="has no figure 'map'; it has"):
        choose({"maps": None}, results["lens"], "map")


@pytest.mark.parametrize("wrong", ["picture.png", {"a": torch.ones(2, 2)}, torch.ones(3, 8, 8), torch.ones(2, 8, 8, 3)])
def test_what_is_no_picture_is_refused_in_a_sentence(wrong):
    with pytest.raises(InputError, match=r"pixels is one picture \[height, width, 3\].* model.to_pixels"):
        as_pixels(wrong)
    assert as_pixels(torch.ones(1, 8, 8, 3)).shape == (8, 8, 3)


def test_plots_are_there_after_import():
    assert "plots" in dir(vitlens)
    assert torch.is_tensor(vitlens.load_demo()[1])
    assert callable(vitlens.plots.dark)


def test_files_of_figures_take_the_options_of_the_figure(results, tmp_path):
    path = tmp_path / "lens.html"
    results["lens"].save(path, title="Figure 3a")
    assert "Figure 3a" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"title= is an option of figures, and a \.csv file holds numbers"):
        results["lens"].save(tmp_path / "lens.csv", title="Figure 3a")


def test_a_heatmap_of_a_picture_that_is_not_there(results):
    with pytest.raises(InputError, match="there is no picture 7 to draw over"):
        results["heatmap"].plot(image=7)
