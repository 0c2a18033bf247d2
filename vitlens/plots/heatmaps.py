"""Figures of heatmaps: one over its picture, and many methods side by side."""

import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.heatmaps.registry import PARTS
from vitlens.heatmaps.run import Heatmap
from vitlens.plots.shared.artefacts import hatch
from vitlens.plots.shared.picture import (
    GLAZE,
    Pixels,
    add_picture,
    as_pixels,
    aspect,
    keep_shape,
    map_tiles,
    patch_heatmap,
    picture_uri,
    signed_over_picture,
)
from vitlens.plots.shared.scales import OWN_SCALE
from vitlens.plots.shared.style import (
    LABEL_ON_PICTURE,
    WARNING,
    array,
    colorbar,
    finish,
    text,
    true_minus,
)

# Pixels above the tiles, and between their rows for the titles.
TOP, BETWEEN = 118, 44


def heatmap_overlay(
    pixels: Pixels,
    values: Float[Tensor, "rows columns"],
    title: str,
    *,
    signed: bool = False,
    subtitle: str = "",
    warning: str | None = None,
    artefacts: Bool[Tensor, "rows columns"] | None = None,
) -> go.Figure:
    """The picture, and one map over it, on its own scale; signed maps diverge around 0.

    Args:
        title: the method and the class.
        signed: whether the map speaks for and against a class.
        subtitle: what else is needed to read the map: the model, the options.
        warning: drawn on the map, such as what artefact tokens carry.
        artefacts: patches that are hatched.
    """
    pixels, grid = as_pixels(pixels), values.shape
    figure = make_subplots(1, 2, horizontal_spacing=0.02)
    for col in (1, 2):
        shown = (
            {"opacity": 0.0, "showscale": False} if col == 1 else {"colorbar": colorbar(f"importance<br>{OWN_SCALE}")}
        )
        figure.add_trace(
            patch_heatmap(values, "importance %{z:.4g}", **{**_scale(values, signed), **shown}), row=1, col=col
        )
        add_picture(figure, picture_uri(pixels, grey=col == 2), grid, col=col)
    keep_shape(figure, pixels, grid)
    if warning is not None:
        _warn(figure, warning, 1, 2, letters=36)
    meaning = "positive speaks for it, negative against" if signed else "own colour scale"
    figure = finish(
        figure,
        text(title, longest=120),
        "; ".join([text(subtitle, longest=120)] * bool(subtitle) + [meaning]),
        height=int(130 + 340 * aspect(pixels)),
        margin={"l": 10, "r": 20, "t": 92, "b": 10},
    )
    return hatch(figure, artefacts)


def heatmap_figure(heatmap: Heatmap, image: int = 0) -> go.Figure:
    """The map of one picture over it, with the warning of what artefact tokens carry, and what it misses of its total.

    Where blocks or heads are kept apart: a map for each block (or head), and their sum.
    """
    pixels = heatmap.picture(image)
    if heatmap.values.ndim > 3:
        return _by_part(heatmap, image)
    facts = [str(heatmap.settings["model"])]
    if not heatmap.method.class_specific:
        facts.append("not class-specific")
    if heatmap.completeness_gap is not None:
        sum_, gap = heatmap.patches()[image].sum().item(), heatmap.completeness_gap[image].item()
        metric = str(heatmap.settings.get("metric", heatmap.method.options["metric"])).replace("_", " ")
        facts.append(f"patches sum to {sum_:+.3f} of the class's gain {sum_ - gap:+.3f} in {metric}")
    return heatmap_overlay(
        pixels,
        heatmap.maps()[image].cpu(),
        heatmap.title(image),
        signed=heatmap.method.signed,
        subtitle="; ".join(facts),
        warning=None if heatmap.warnings is None else heatmap.warnings[image],
        artefacts=None if heatmap.artefacts is None else heatmap.artefacts[image],
    )


def heatmap_comparison(
    pixels: Pixels,
    maps: Mapping[str, Float[Tensor, "rows columns"]],
    *,
    signed: Collection[str] = (),
    class_free: Collection[str] = (),
    warnings: Mapping[str, str | None] | None = None,
    artefacts: Bool[Tensor, "rows columns"] | None = None,
    class_name: str | None = None,
    model_name: str = "",
    columns: int | None = None,
) -> go.Figure:
    """The picture, and one tile for every method, each on its own scale, whose ends stand under the method's name.

    Args:
        maps: by what is to stand above each.
        signed: the names of those that speak for and against the class, around 0.
        class_free: the names of those that are not class-specific; the tiles say so.
        warnings: sentences to draw on the tiles of these names.
        artefacts: patches that are hatched.
        class_name: what the maps are about.
        columns: tiles in a row; by default at most 6.

    Raises:
        InputError: no map, maps of different grids, or something that is no picture.
    """
    pixels = as_pixels(pixels)
    if not isinstance(maps, Mapping) or len({tuple(values.shape) for values in maps.values()}) != 1:
        raise InputError("maps are given by name, {name: map [rows, columns], …}, at least one and all on one grid")
    n_tiles = len(maps) + 1
    columns = columns or min(6, n_tiles)
    rows = -(-n_tiles // columns)
    width_of_tile = max(120, min(330, 1080 // columns))
    grid = tuple(next(iter(maps.values())).shape)
    height_of_tile = round(width_of_tile * aspect(pixels))
    height = TOP + rows * (height_of_tile + BETWEEN)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[
            "the picture",
            *(_tile_title(name, values, name in class_free) for name, values in maps.items()),
        ],
        horizontal_spacing=0.012,
        vertical_spacing=BETWEEN / (height - TOP) if rows > 1 else 0,
    )
    blank = torch.zeros(grid)
    figure.add_trace(patch_heatmap(blank, "", opacity=0.0, showscale=False), row=1, col=1)
    add_picture(figure, picture_uri(pixels), grid, 1, 1)
    ground = picture_uri(pixels, grey=True, longest=224)
    for tile, (name, values) in enumerate(maps.items(), start=1):
        row, col = tile // columns + 1, tile % columns + 1
        hover = f"{text(name)}<br>importance %{{z:.4g}}"
        figure.add_trace(
            patch_heatmap(values, hover, showscale=False, **_scale(values, name in signed)), row=row, col=col
        )
        add_picture(figure, ground, grid, row, col)
    for title in figure.layout.annotations:
        title.update(font={"size": 12}, yshift=-2)
    keep_shape(figure, pixels, grid)
    for tile, name in enumerate(maps, start=1):
        warning = (warnings or {}).get(name)
        if warning:
            _warn(figure, warning, tile // columns + 1, tile % columns + 1, letters=width_of_tile // 7)
    about = "the class came from" if class_name is None else f"“{text(class_name)}” came from"
    subtitle = "every map on its own scale, whose ends stand under its name" + (
        "; where there are signs, positive speaks for the class and negative against" if set(signed) & set(maps) else ""
    )
    figure = finish(
        figure,
        f"Where {about}, by {len(maps)} method{'s' * (len(maps) != 1)}",
        "; ".join([text(model_name)] * bool(model_name) + [subtitle]),
        height=height,
        margin={"l": 10, "r": 10, "t": TOP, "b": 10},
    )
    return hatch(figure, artefacts)


def _scale(values: Float[Tensor, "rows columns"], signed: bool) -> dict[str, Any]:
    """Heatmap settings: around 0 where there are signs, else from the least value to the largest."""
    if signed:
        return signed_over_picture(array(values))
    low, high = _ends(values)
    # A map that is the same everywhere is all low: plotly would choose ends of its own.
    return {"colorscale": GLAZE, "zmin": low, "zmax": high if high > low else low + 1}


def _ends(values: Float[Tensor, "rows columns"]) -> tuple[float, float]:
    finite = values[values.isfinite()]
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)


def _tile_title(name: str, values: Float[Tensor, "rows columns"], class_free: bool) -> str:
    low, high = _ends(values)
    ends = f"{low:.3g} … {high:.3g}" if high > low else f"{low:.3g} everywhere"
    ends += "; not class-specific" if class_free else ""
    return f"{text(name, longest=34)}<br><span style='font-size:10px'>{true_minus(ends)}</span>"


def _warn(figure: go.Figure, warning: str, row: int, col: int, letters: int) -> None:
    """The sentence at the foot of a tile."""
    lines = textwrap.wrap(warning, letters)
    figure.add_annotation(
        text="⚠ " + "<br>".join(text(line, longest=letters) for line in lines),
        xref="x domain", yref="y domain", x=0.5, y=0.02, xanchor="center", yanchor="bottom",
        showarrow=False, **LABEL_ON_PICTURE, bordercolor=WARNING, borderwidth=2, borderpad=2, row=row, col=col,
    )  # fmt: skip


def _by_part(heatmap: Heatmap, image: int) -> go.Figure:
    """Figure 11: block by block (or head by head, where only heads are kept), and the sum."""
    part = next(name for name in PARTS if name in heatmap.axes)
    values = heatmap.values[image].float()
    of_parts = values.sum(dim=1) if values.ndim == 4 else values
    maps = torch.cat([of_parts, heatmap.maps()[image].float()[None]])
    titles = [*(f"{part} {number}" for number in heatmap.axes[part]), f"sum over {part}s"]
    figure = map_tiles(
        maps,
        titles,
        heatmap.picture(image),
        "%{z:.4g}",
        f"{heatmap.quantity}<br>{OWN_SCALE}",
        columns=max(3, min(6, len(titles))),
        **signed_over_picture(maps.cpu()),
    )
    name = text(short_name(heatmap.class_label(image)))
    return finish(
        figure,
        f"Which patches “{name}” came from: {text(heatmap.method.title)}",
        f"{text(heatmap.settings['model'])}; positive: speaks for the class, negative: against it",
        margin={"l": 10, "r": 20, "t": 92, "b": 10},
    )


FIGURES = {Heatmap: heatmap_figure}
