"""What all figures have in common: one template, both themes, legible text, hover text, and no markup from outside."""

import inspect
import json
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules

import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from plots.conftest import SCRIPT, gallery

import vitlens.plots
from vitlens import InputError, describe, load_demo
from vitlens.plots.description import KINDS, outlier_map
from vitlens.plots.heatmaps import heatmap_overlay
from vitlens.plots.shared.artefacts import hatch
from vitlens.plots.shared.picture import GLAZE, SIGNED_GLAZE
from vitlens.plots.shared.scales import _scales, one_range, quantity
from vitlens.plots.shared.style import (
    COLOURS,
    DARK,
    FIELD,
    LABEL_ON_PICTURE,
    LIGHT,
    LOWERS,
    NEUTRAL,
    ON_FIELD,
    PALE,
    RAISES,
    TEMPLATES,
    UPLOAD_BUTTON,
    dark,
    diverging,
    pale,
    percent_ticks,
)

#: What belongs to a theme and must not be written into a figure.
THEMED = {colour for theme in (LIGHT, DARK) for colour in (theme.paper, theme.ink, theme.muted, theme.grid)}


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def saturation(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return 1 - min(parts) / max(parts)


def strings(part: object):
    """Every string in a figure's JSON, but those of its template and of pictures."""
    if isinstance(part, str):
        if not part.startswith("data:"):
            yield part
    elif isinstance(part, dict):
        for name, value in part.items():
            if name not in ("template", "bdata"):
                yield from strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from strings(value)


def written(figure: go.Figure) -> list[str]:
    return list(strings(json.loads(figure.to_json())))


def test_every_figure_has_one_look(every_figure):
    light = pio.templates[TEMPLATES["light"]]
    for name, figure in every_figure.items():
        assert figure.layout.title.text, name
        assert figure.layout.template == light, name
        assert figure.layout.font.color is None, name
        assert figure.layout.paper_bgcolor is None, name
        assert not THEMED & {part.lower() for part in written(figure)} - {ON_FIELD}, name
        assert not {"white", "black", "#000000"} & set(written(figure)), name
        # Dark text lies on fields that are bright in both themes, and nowhere else.
        if ON_FIELD in written(figure):
            on_label = any(note.bgcolor == LABEL_ON_PICTURE["bgcolor"] for note in figure.layout.annotations)
            assert on_label or {FIELD, *PALE} & set(written(figure)), name


def test_no_figure_offers_to_upload_itself(every_figure):
    for name, figure in every_figure.items():
        assert figure.layout.modebar.remove == (UPLOAD_BUTTON,), name
        assert figure.update_layout(template="plotly").layout.modebar.remove == (UPLOAD_BUTTON,), name
        figure.update_layout(template=TEMPLATES["light"])


def test_in_dark_it_is_the_same_figure(every_figure):
    for name, figure in every_figure.items():
        other = dark(figure)
        assert other.layout.template == pio.templates[TEMPLATES["dark"]], name
        assert figure.layout.template == pio.templates[TEMPLATES["light"]], name
        back = other.update_layout(template=TEMPLATES["light"])
        assert json.loads(back.to_json()) == json.loads(figure.to_json()), name


def test_signed_values_take_the_themes_scale(every_figure):
    n_signed = 0
    for name, figure in every_figure.items():
        own = [trace for trace in figure.data if trace.type == "heatmap" and trace.coloraxis is None]
        over_pictures = go.Heatmap(colorscale=SIGNED_GLAZE).colorscale
        scales = [trace for trace in own if trace.colorscale in (None, over_pictures) and trace.opacity != 0]
        ends = [(trace.zmin, trace.zmax, trace.zmid) for trace in scales]
        axis = figure.layout.coloraxis
        signed = axis.colorscale in (None, over_pictures)
        ends += [(axis.cmin, axis.cmax, axis.cmid)] if axis.cmax is not None and signed else []
        # Chosen by plotly itself, a scale could not be changed.
        assert "autocolorscale" not in figure.to_json(), name
        for low, high, middle in ends:
            assert low == -high < 0, name
            assert middle == 0, name
        n_signed += len(ends)
    assert n_signed >= 5
    assert "colorscale" not in diverging(pytest.importorskip("numpy").ones(3))


def test_hover_text_is_there_and_names_no_trace(every_figure):
    for name, figure in every_figure.items():
        for trace in figure.data:
            speaks = trace.hovertemplate or trace.hoverinfo in ("skip", "text") or trace.x == (None,)
            assert speaks, (name, trace.type)
            if trace.hovertemplate:
                assert trace.hovertemplate.endswith("<extra></extra>"), (name, trace.hovertemplate)


def test_names_from_outside_stay_text(odd, every_figure):
    for name, figure in every_figure.items():
        text = " ".join(written(figure))
        assert "<i>odd" not in text, name
        assert "<b>class" not in text, name


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_is_legible(theme):
    template = pio.templates[TEMPLATES["light" if theme is LIGHT else "dark"]].layout
    assert template.paper_bgcolor == template.plot_bgcolor == theme.paper
    assert contrast(template.font.color, template.paper_bgcolor) >= 7
    assert contrast(template.title.subtitle.font.color, template.paper_bgcolor) >= 4.5
    # Lines and bars are no text: WCAG asks for 3. Okabe and Ito's yellows are for fields.
    for colour in (*COLOURS[:3], NEUTRAL, RAISES, LOWERS):
        assert contrast(colour, theme.paper) >= 3, colour
    assert contrast(theme.muted, theme.paper) >= 3
    # 0 recedes into the paper, and both ends stand out from it.
    middle = len(theme.diverging) // 2
    assert contrast(theme.diverging[middle], theme.paper) < 1.1
    # The ends stand out and are still blue and red: near black or white nobody sees the sign of the strongest.
    assert all(contrast(theme.diverging[end], theme.paper) >= 4.5 for end in (0, -1))
    assert all(saturation(theme.diverging[end]) > 0.5 for end in (0, -1))
    half = [luminance(colour) for colour in theme.diverging[middle:]]
    assert half == sorted(half, reverse=theme is LIGHT)
    assert all(a != b for a, b in pairwise(half))


def test_dark_text_is_legible_on_fields():
    for colour in (FIELD, *PALE, *map(pale, COLOURS)):
        assert contrast(ON_FIELD, colour) >= 4.5, colour


def test_a_refusal_is_drawn_in_its_place(demo):
    def refuse():
        raise InputError("none of the 40 best edges lies on a path <b>from the input</b> to the logits")

    found = gallery.drawn(
        "Circuits", lambda: {"circuit": refuse, "good": lambda: go.Figure().update_layout(title="good")}
    )
    assert list(found) == ["circuit", "good"]
    assert found["circuit"].layout.title.text == "circuit: not drawn"
    assert "none of the 40 best edges" in found["circuit"].layout.annotations[0].text
    assert "&lt;b&gt;from the input" in found["circuit"].layout.annotations[0].text
    assert list(gallery.drawn("Circuits", refuse)) == ["Circuits"]


def test_artefacts_are_hatched_in_maps_that_are_seen():
    maps = heatmap_overlay(torch.rand(8, 12, 3), torch.rand(2, 3), "a")
    before = len(maps.data)
    assert hatch(maps, torch.zeros(2, 3, dtype=torch.bool)) is maps
    assert len(hatch(maps, torch.ones(3, 3, dtype=torch.bool)).data) == before
    marked = torch.zeros(2, 3, dtype=torch.bool)
    marked[1, 2] = True
    drawn = hatch(maps, marked).data[before:]
    assert [(line.xaxis, line.yaxis) for line in drawn] == [("x2", "y2")]
    x, y = ([value for value in line if value is not None] for line in (drawn[0].x, drawn[0].y))
    assert (min(x), max(x), min(y), max(y)) == (1.5, 2.5, 0.5, 1.5)
    assert maps.layout.title.subtitle.text.endswith("hatched: artefact tokens")


#: Names of hook points, sites, options and functions.
CODE = re.compile(r"hook_|\b(resid|attn|mlp)_(pre|mid|post|out)\b|\bz\b|self_only|no_cls|\w+_\w+|\ba\d+\.h\d+")


def test_titles_and_legends_have_no_code_names(every_figure):
    for name, figure in every_figure.items():
        panels = [note.text for note in figure.layout.annotations if note.yref == "paper" and note.text]
        legend = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
        axes = [figure.layout[axis].title.text for axis in figure.layout if axis[1:5] == "axis"]
        for line in filter(None, (figure.layout.title.text, *panels, *legend, *axes)):
            assert not CODE.search(line.replace("fashion_in_context_vit", "the model")), (name, line)


def test_pictures_stay_visible_under_every_map(every_figure):
    clear = [go.Heatmap(colorscale=scale).colorscale for scale in (GLAZE, SIGNED_GLAZE)]
    opaque = [float(colour.rsplit(",", 1)[1][:-1]) for scale in clear for _, colour in scale]
    assert max(opaque) <= 0.85
    n_maps = 0
    for name, figure in every_figure.items():
        under = {(image.xref, image.yref) for image in figure.layout.images}
        for trace in figure.data:
            if trace.type != "heatmap" or (trace.xaxis or "x", trace.yaxis or "y") not in under or trace.opacity == 0:
                continue
            scale = trace.colorscale if trace.coloraxis is None else figure.layout[trace.coloraxis].colorscale
            assert scale in clear or trace.opacity <= 0.6, name
            n_maps += 1
    assert n_maps > 50


def test_letters_are_the_larger_the_sooner_they_are_read(every_figure):
    for theme in TEMPLATES.values():
        layout = pio.templates[theme].layout
        assert layout.title.font.size > layout.title.subtitle.font.size
        assert layout.xaxis.title.font.size == layout.xaxis.tickfont.size == layout.yaxis.tickfont.size
    for name, figure in every_figure.items():
        axis = pio.templates[TEMPLATES["light"]].layout.xaxis.tickfont.size
        for note in figure.layout.annotations:
            size = note.font.size or 13
            assert size < pio.templates[TEMPLATES["light"]].layout.title.font.size, name
            assert size >= axis or note.bgcolor, (name, note.text)
        for axes in (figure.layout[axis] for axis in figure.layout if axis[1:5] == "axis"):
            assert axes.title.font.size is None, name
            assert axes.tickfont.size in (None, 11, 12), name


def test_numbers_are_written_in_one_way(every_figure):
    for name, figure in every_figure.items():
        told = [figure.layout.title.text, figure.layout.title.subtitle.text]
        told += [note.text for note in figure.layout.annotations]
        told += [label for axis in figure.layout if axis[1:5] == "axis" for label in figure.layout[axis].ticktext or ()]
        for line in filter(None, told):
            assert not re.search(r"(?<![\w)-])-\.?\d", line), (name, line)
            assert not re.search(r"[−+]0\.0+(?![\d.e])", line), (name, line)
            assert not re.search(r"\d%", line), (name, line)
        assert not re.search(r"\.\d%[}\"]", figure.to_json()), name


def test_one_quantity_has_one_range_on_a_page(every_figure):
    shown = one_range(list(every_figure.values()))
    ends: dict[str, set[tuple[float, float]]] = {}
    for figure in shown:
        for scale, (low, high) in _scales(figure):
            ends.setdefault(quantity(scale), set()).add((scale[low], scale[high]))
    assert {"logit", "attention"} <= set(ends)
    assert {name: len(found) for name, found in ends.items()} == dict.fromkeys(ends, 1)
    # The figures that were given keep their own ends.
    for given, drawn in zip(every_figure.values(), shown, strict=True):
        assert given is drawn or given.to_json() != drawn.to_json()


def test_empty_panels_say_so():
    model, images, *_ = load_demo()
    figure = outlier_map(describe(model, images[:2], progress=False))
    assert "none" in [note.text for note in figure.layout.annotations]
    assert percent_ticks(0.0859)["ticktext"][:2] == ["0 %", "2 %"]


def test_the_gallery_shows_every_figure():
    source = SCRIPT.read_text()
    drawn_elsewhere = {function.__name__ for function in KINDS.values()}
    # `plot` and this one choose among figures; series and picture hold their parts, `hatch` adds to them.
    choosers = {
        "plot",
        "patching_figure",
        "dark",
        "finish",
        "panels",
        "legend_below",
        "map_tiles",
        "hatch",
        "label_ends",
    }
    missing = []
    for module in iter_modules([str(Path(vitlens.plots.__file__).parent)]):
        for name, function in inspect.getmembers(import_module(f"vitlens.plots.{module.name}"), inspect.isfunction):
            returns = inspect.signature(function).return_annotation
            own = function.__module__ == f"vitlens.plots.{module.name}" and not name.startswith("_")
            if own and returns in (go.Figure, "go.Figure") and name not in drawn_elsewhere | choosers:
                missing += [name] if f"{name}(" not in source else []
    assert not missing
