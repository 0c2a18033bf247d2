"""The figure of the top-1 class of every patch, by name, as tiles in the place of the patches."""

import textwrap
from collections import Counter

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vitlens.data.class_names import short_name
from vitlens.lens.lens import ClassLens
from vitlens.plots.shared.picture import add_picture, aspect, keep_shape, map_axes, patch_heatmap, picture_uri
from vitlens.plots.shared.style import COLOURS, FIELD, NEUTRAL, ON_FIELD, finish, pale, text

SHADES = tuple(pale(colour) for colour in COLOURS if colour != NEUTRAL)
# Pixels of the mosaic's longer side; sizes of its labels, the largest at which all fit being taken.
SIDE, SIZES = 720, (13, 12, 11, 10, 9, 8)


def class_mosaic(lens: ClassLens, block: int = -1, image: int = 0, site: str | None = None) -> go.Figure:
    """The top-1 class of each patch, by name, next to the picture; the most frequent classes have colours.

    Args:
        lens: with every patch: `class_lens(model, images)`.
        block: by its place among the lens' blocks.

    Raises:
        InputError: the lens was not taken at all patches.
    """
    index, patches, pixels = lens.site_index(site), lens.patch_places(), lens.picture(image)
    grid = (lens.grid[0], lens.grid[1])
    names = [lens.top_names(block, token, image, site)[0] for token in range(len(lens.axes["token"]))]
    logits = lens.top_logits[index, block, image, :, 0]
    said = Counter(names[token] for token in patches)
    coloured = [name for name, _ in said.most_common(len(SHADES))]
    shades = [*SHADES[: len(coloured)], FIELD]
    codes = [coloured.index(names[token]) if names[token] in coloured else len(coloured) for token in patches]
    wide, high = SIDE / max(1.0, aspect(pixels)), SIDE * min(1.0, aspect(pixels))
    labels, size = _labels([short_name(names[token]) for token in patches], wide / grid[1], high / grid[0])
    hover = [f"{text(names[token], 120)}<br>logit {logits[token].item():.3f}" for token in patches]
    figure = make_subplots(1, 2, column_widths=[0.28, 0.72], horizontal_spacing=0.02)
    figure.add_trace(patch_heatmap(torch.zeros(grid), "", 0.0, showscale=False), row=1, col=1)
    add_picture(figure, picture_uri(pixels), grid)
    tiles = go.Heatmap(
        z=np.reshape(codes, grid).astype(np.float32), zmin=-0.5, zmax=len(shades) - 0.5, showscale=False,
        colorscale=[[(i + side) / len(shades), shade] for i, shade in enumerate(shades) for side in (0, 1)],
        text=np.reshape(labels, grid), texttemplate="%{text}", textfont={"size": size, "color": ON_FIELD},
        customdata=np.reshape(hover, grid), xgap=1, ygap=1,
        hovertemplate="patch (%{y}, %{x})<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(tiles, row=1, col=2)
    map_axes(figure, grid, 1, 2)
    keep_shape(figure, pixels, grid)
    for name, shade in zip(coloured, shades, strict=False):
        entry = f"{text(short_name(name), 28)} ({said[name]})"
        marker = {"color": shade, "size": 13, "symbol": "square"}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=entry), row=1, col=1)
    prefix = [token for token in range(len(names)) if token not in set(patches)]
    others = ", ".join(f"{text(lens.axes['token'][token])}: {text(short_name(names[token]))}" for token in prefix[:4])
    place = f"{lens.axes['site'][index]} of block {lens.axes['block'][block]}"
    return finish(
        figure,
        "The top-1 class of each patch",
        f"{text(lens.settings['model'])}; {place}; {len(said)} of {lens.n_classes:,} classes, the commonest coloured"
        + (f"<br>top-1 class of the other tokens: {others}" if others else ""),
        height=int(130 + 60 + high),
        margin={"l": 10, "r": 10, "t": 110, "b": 80},
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
    )


def _labels(names: list[str], wide: float, high: float) -> tuple[list[str], int]:
    """The names as they fit into tiles of this size in pixels, and the size of their letters.

    Names are wrapped between words, and words cut where even the smallest letters are too large for them; tiles of less
    than three letters are empty.
    """
    for size in SIZES:
        letters, lines = int(wide / (0.56 * size)), int(high / (1.25 * size))
        wrapped = [textwrap.wrap(name, max(1, letters), break_long_words=False) for name in names]
        if all(len(parts) <= lines and all(len(part) <= letters for part in parts) for parts in wrapped):
            break
    if letters < 3 or lines < 1:
        return [""] * len(names), size
    return ["<br>".join(text(part, letters) for part in parts[:lines]) for parts in wrapped], size
