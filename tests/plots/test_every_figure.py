"""What all figures have in common: one template, both themes, legible text, hover text, and no markup from outside."""

import inspect
import json
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
from vitlens import InputError
from vitlens.plots.description import KINDS
from vitlens.plots.heatmaps import heatmap_overlay
from vitlens.plots.shared.artefacts import hatch
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
        scales = [trace for trace in own if trace.colorscale is None and trace.opacity != 0]
        ends = [(trace.zmin, trace.zmax, trace.zmid) for trace in scales]
        axis = figure.layout.coloraxis
        ends += [(axis.cmin, axis.cmax, axis.cmid)] if axis.cmax is not None and axis.colorscale is None else []
        # Chosen by plotly itself, a scale could not be changed.
        assert "autocolorscale" not in figure.to_json(), name
        for low, high, middle in ends:
            assert low == -high < 0, name
            assert middle == 0, name
        n_signed += len(ends)
    assert n_signed >= 8
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
    assert all(contrast(theme.diverging[end], theme.paper) > 7 for end in (0, -1))
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


def test_the_gallery_shows_every_figure():
    source = SCRIPT.read_text()
    drawn_elsewhere = {function.__name__ for function in KINDS.values()}
    # `plot` and this one choose among figures; series and picture hold their parts, `hatch` adds to them.
    choosers = {"plot", "patching_figure", "dark", "finish", "panels", "legend_below", "map_tiles", "hatch"}
    missing = []
    for module in iter_modules([str(Path(vitlens.plots.__file__).parent)]):
        for name, function in inspect.getmembers(import_module(f"vitlens.plots.{module.name}"), inspect.isfunction):
            returns = inspect.signature(function).return_annotation
            own = function.__module__ == f"vitlens.plots.{module.name}" and not name.startswith("_")
            if own and returns in (go.Figure, "go.Figure") and name not in drawn_elsewhere | choosers:
                missing += [name] if f"{name}(" not in source else []
    assert not missing
