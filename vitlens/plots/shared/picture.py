"""Draws maps in units of patches, over the picture they are about."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.arguments import short
from vitlens.errors import InputError
from vitlens.plots.shared.style import GRID_ON_PICTURE, OUTLINE, array, colorbar, diverging, finish, text

#: Colours in [0, 1], or the bytes that a result keeps.
Pixels = Float[Tensor, "height width 3"] | UInt8[Tensor, "height width 3"]


def as_pixels(pixels: Any) -> Pixels:
    """A picture as the model sees it; a batch of one is its picture.

    A file is refused: a model may have cut the picture, and the map would lie over the wrong places.

    Raises:
        InputError: anything that is no picture [height, width, 3].
    """
    if isinstance(pixels, Tensor):
        one = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
        if one.ndim == 3 and one.shape[2] == 3:
            return one
    raise InputError(
        f"pixels is one picture [height, width, 3] as the model sees it, model.to_pixels(images)[0], not {short(pixels)}"
    )


def picture_uri(pixels: Pixels, grey: bool = False, longest: int = 448) -> str:
    """The picture as a data URI: PNG where it is small (its pixels matter), JPEG where it is a photograph."""
    colours = array(pixels) * 255 if pixels.is_floating_point() else array(pixels)
    image = Image.fromarray(colours.round().astype(np.uint8))
    if grey:
        image = image.convert("L")
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    small = max(image.size) <= 96
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def add_picture(
    figure: go.Figure, uri: str, grid: Sequence[int], row: int = 1, col: int = 1, opacity: float = 1.0
) -> None:
    """Lays the picture under a subplot whose axes count patches, and frees these axes of ticks."""
    rows, columns = grid
    figure.add_layout_image(
        source=uri, x=-0.5, y=-0.5, sizex=columns, sizey=rows, sizing="stretch", layer="below",
        opacity=opacity, row=row, col=col, xref="x", yref="y",
    )  # fmt: skip
    map_axes(figure, grid, row, col)


def map_axes(figure: go.Figure, grid: Sequence[int], row: int = 1, col: int = 1) -> None:
    """Axes that count patches from the upper left, square and without ticks."""
    rows, columns = grid
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    anchor = figure.get_subplot(row, col).xaxis.plotly_name.replace("xaxis", "x")
    figure.update_xaxes(range=[-0.5, columns - 0.5], row=row, col=col, **hidden)
    figure.update_yaxes(range=[rows - 0.5, -0.5], scaleanchor=anchor, row=row, col=col, **hidden)


def aspect(pixels: Pixels) -> float:
    """Height over width, within what figures can lay out."""
    return min(1.6, max(0.4, pixels.shape[0] / pixels.shape[1]))


def keep_shape(figure: go.Figure, pixels: Pixels, grid: Sequence[int]) -> None:
    """Patches that are not square are drawn as they are."""
    rows, columns = grid
    figure.update_yaxes(scaleratio=(pixels.shape[0] / rows) / (pixels.shape[1] / columns))


def _glaze(strength: float, hue: Sequence[int], most: float, dim: float) -> str:
    """A colour over a picture: the hue as opaque as the value is strong, over a veil that is darker where it is weak."""
    tint, veil = most * strength, dim * (1 - strength)
    alpha = tint + veil * (1 - tint)
    r, g, b = (round(part * tint / alpha) if alpha else part for part in hue)
    return f"rgba({r},{g},{b},{alpha:.3f})"


def _steps(sign: int = 1) -> list[float]:
    """Places on a scale, closer where colours change faster: what is drawn is the square root of the share."""
    return [(i / 12) ** 2 for i in range(13)][::sign]


#: Scales of maps over pictures, as on the one page: the hue says the sign, opacity and brightness the size, and the
#: picture stays visible under both ends.
GLAZE = [[share, _glaze(share**0.5, (255, 176, 0), 0.64, 0.42)] for share in _steps()]
SIGNED_GLAZE = [
    *[[0.5 - share / 2, _glaze(share**0.5, (33, 102, 172), 0.85, 0.0)] for share in _steps(-1)],
    *[[0.5 + share / 2, _glaze(share**0.5, (178, 24, 43), 0.85, 0.0)] for share in _steps()[1:]],
]


def signed_over_picture(values: Tensor | np.ndarray) -> dict[str, Any]:
    """Settings of a map of signed values over a picture: clear at 0, the ends equally far."""
    return {**diverging(values), "colorscale": SIGNED_GLAZE}


def patch_heatmap(
    values: Float[Tensor, "rows columns"] | np.ndarray, hover: str, opacity: float = 1.0, **settings: object
) -> go.Heatmap:
    """A map over patches; the hover names row and column. `hover` is plotly's template for the value."""
    return go.Heatmap(
        z=array(values) if isinstance(values, Tensor) else values.astype(np.float32),
        opacity=opacity,
        hovertemplate=f"patch (%{{y}}, %{{x}})<br>{hover}<extra></extra>",
        **settings,
    )


def picture_with_grid(
    pictures: dict[str, Pixels], grid: Sequence[int], mask: Bool[Tensor, "rows columns"] | None = None
) -> go.Figure:
    """The pictures as the model sees them, cut into its patches; patches of the object outlined where a mask is given."""
    pictures = {name: as_pixels(pixels) for name, pixels in pictures.items()}
    figure = make_subplots(1, len(pictures), subplot_titles=[text(name) for name in pictures])
    rows, columns = grid
    shapes: list[dict[str, Any]] = []
    for col, pixels in enumerate(pictures.values(), start=1):
        blank = go.Heatmap(
            z=np.zeros((rows, columns), dtype=np.float32),
            opacity=0,
            showscale=False,
            hovertemplate="patch (%{y}, %{x})<extra></extra>",
        )
        figure.add_trace(blank, row=1, col=col)
        add_picture(figure, picture_uri(pixels), grid, col=col)
        lines = [{"x0": -0.5, "x1": columns - 0.5, "y0": y - 0.5, "y1": y - 0.5} for y in range(1, rows)]
        lines += [{"y0": -0.5, "y1": rows - 0.5, "x0": x - 0.5, "x1": x - 0.5} for x in range(1, columns)]
        drawn = [line | {"line": {"color": GRID_ON_PICTURE, "width": 1}} for line in lines]
        if mask is not None:
            drawn += [line | {"line": {"color": OUTLINE, "width": 3}} for line in _outline(mask)]
        xaxis, yaxis = (axis.plotly_name.replace("axis", "") for axis in figure.get_subplot(1, col))
        shapes += [{"type": "line", "xref": xaxis, "yref": yaxis, **line} for line in drawn]
    # One by one, plotly would check all shapes again for each.
    figure.update_layout(shapes=shapes)
    keep_shape(figure, next(iter(pictures.values())), grid)
    subtitle = f"{rows} × {columns} patches" + (", the object's patches outlined" if mask is not None else "")
    return finish(
        figure,
        "What the model sees",
        subtitle,
        height=430,
        showlegend=False,
        margin={"l": 10, "r": 10, "t": 92, "b": 10},
    )


def _outline(mask: Bool[Tensor, "rows columns"]) -> list[dict[str, float]]:
    """The edges between patches inside and outside the mask, as lines."""
    padded = np.pad(mask.cpu().numpy(), 1)
    lines = []
    for y, x in zip(*np.nonzero(padded[1:] != padded[:-1]), strict=True):
        lines.append({"x0": x - 1.5, "x1": x - 0.5, "y0": y - 0.5, "y1": y - 0.5})
    for y, x in zip(*np.nonzero(padded[:, 1:] != padded[:, :-1]), strict=True):
        lines.append({"x0": x - 0.5, "x1": x - 0.5, "y0": y - 1.5, "y1": y - 0.5})
    return lines


def map_tiles(
    maps: Float[Tensor, "tile rows columns"],
    titles: Sequence[str],
    pixels: Pixels,
    hover: str,
    colorbar_title: str,
    columns: int | None = None,
    **coloraxis: object,
) -> go.Figure:
    """Small multiples: one map per tile over the grey picture, all on one colour scale."""
    columns = columns or min(6, len(titles))
    rows = -(-len(titles) // columns)
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=list(titles),
        horizontal_spacing=0.012,
        vertical_spacing=0.09 / max(1, rows / 2),
    )
    uri = picture_uri(pixels, grey=True, longest=224)
    for i, (tile, title) in enumerate(zip(maps, titles, strict=True)):
        row, col = divmod(i, columns)
        figure.add_trace(patch_heatmap(tile, f"{title}<br>{hover}", coloraxis="coloraxis"), row=row + 1, col=col + 1)
        add_picture(figure, uri, tile.shape, row + 1, col + 1)
    for empty in range(len(titles), rows * columns):
        row, col = divmod(empty, columns)
        figure.update_xaxes(visible=False, row=row + 1, col=col + 1)
        figure.update_yaxes(visible=False, row=row + 1, col=col + 1)
    keep_shape(figure, pixels, maps.shape[1:])
    figure.update_layout(
        coloraxis=_coloraxis(coloraxis, colorbar_title),
        height=int(110 + rows * max(150, min(300, 1080 // columns) * aspect(pixels))),
    )
    return figure


def _coloraxis(settings: dict[str, object], title: str) -> dict[str, object]:
    """Heatmap settings in the spelling of a shared colour axis."""
    spelling = {"zmin": "cmin", "zmax": "cmax", "zmid": "cmid"}
    return {spelling.get(name, name): value for name, value in settings.items()} | {
        "colorbar": {**colorbar(title), "nticks": 7}
    }
