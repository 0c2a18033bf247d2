"""Figures of what patches share: components as colours, joined nearest patches, similarity to a chosen patch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.runs.picture_run import check_index
from vitlens.plots.shared.artefacts import hatch, hatch_one
from vitlens.plots.shared.picture import (
    add_picture,
    aspect,
    keep_shape,
    map_tiles,
    patch_heatmap,
    picture_uri,
    signed_over_picture,
)
from vitlens.plots.shared.places import hook_in_words
from vitlens.plots.shared.style import (
    COLOURS,
    FIELD,
    NEUTRAL,
    ON_FIELD,
    OUTLINE,
    array,
    colorbar,
    finish,
    in_percent,
    text,
)
from vitlens.results.result import Result
from vitlens.similarity.likeness import COSINE, METHOD_WORDS
from vitlens.similarity.reading import FINAL
from vitlens.similarity.results import NearestPatches, PatchPCA, PatchSimilarity, Place

#: Of pictures beside one another, in one figure of colours.
MOST_COLOURED = 8
#: Pixels of the longer side of a picture that stands beside one other.
SIDE_OF_TWO = 430
#: Of lines between pictures: all can be distinguished on photographs.
LINES = tuple(colour for colour in COLOURS if colour != NEUTRAL)
#: Between two pictures, in patches.
GAP_IN_PATCHES = 1.5


def pca_colours(result: PatchPCA, components: tuple[int, int, int] = (0, 1, 2), image: int | None = None) -> go.Figure:
    """Pictures above, and below them three components of their patches as red, green and blue.

    Args:
        components: which are red, green and blue, counted from 0.
        image: one picture alone; by default the first eight.
    """
    colours = result.colours(components)
    if image is not None:
        check_index(image, len(result.values), "picture")
    n_kept = 0 if result.pixels is None else len(result.pixels)
    chosen = list(range(min(n_kept, MOST_COLOURED))) if image is None else [image]
    grid, pixels = (result.grid[0], result.grid[1]), result.picture(chosen[0])
    # A single picture has its colours at its side.
    places = [(1, col, 2, col) for col in range(1, len(chosen) + 1)] if len(chosen) > 1 else [(1, 1, 1, 2)]
    figure = make_subplots(places[-1][2], places[-1][3], horizontal_spacing=0.012, vertical_spacing=0.02)
    for picture, (row, col, row_below, col_below) in zip(chosen, places, strict=True):
        hover = patch_heatmap(torch.zeros(grid), "", opacity=0.0, showscale=False)
        figure.add_trace(hover, row=row, col=col)
        add_picture(figure, picture_uri(result.picture(picture)), grid, row, col)
        figure.add_trace(_coloured(colours[picture], result, picture, components), row=row_below, col=col_below)
        add_picture(figure, picture_uri(result.picture(picture), grey=True), grid, row_below, col_below)
        if result.outliers[picture].any():
            axes = figure.data[-1]
            hatch_one(figure, result.outliers[picture].unflatten(0, grid), axes.xaxis, axes.yaxis)
    keep_shape(figure, pixels, grid)
    shares = ", ".join(
        f"{result.axes['principal_component'][component]} {name} ({in_percent(float(result.variance_shares[component]))})"
        for name, component in zip(("red", "green", "blue"), components, strict=True)
    )
    notes = ["each channel from the 1st to the 99th percentile over all pictures"]
    left_out = [
        name
        for name, patches in (("background (grey)", result.background), ("artefact tokens (hatched)", result.outliers))
        if patches[chosen].any()
    ]
    notes += [f"left out: {', '.join(left_out)}"] if left_out else []
    side = min(SIDE_OF_TWO, 1000 // places[-1][3])
    return finish(
        figure,
        "Three principal components of the patches as colours",
        f"{_about(result)}; {shares} of the variance<br>{'; '.join(notes)}",
        height=int(110 + places[-1][2] * side * aspect(pixels)),
        margin={"l": 10, "r": 10, "t": 92, "b": 10},
    )


def pca_components(result: PatchPCA, image: int = 0) -> go.Figure:
    """A picture's scores on each component as a map: red on one side of the mean of all patches, blue on the other."""
    check_index(image, len(result.values), "picture")
    maps = result.maps()[image].float()
    titles = [
        f"{name}, {in_percent(share, 1)} of the variance"
        for name, share in zip(result.axes["principal_component"], result.variance_shares.tolist(), strict=True)
    ]
    figure = map_tiles(
        maps, titles, result.picture(image), "score %{z:.3g}", "score", columns=min(4, len(titles)),
        **signed_over_picture(maps),
    )  # fmt: skip
    finish(
        figure,
        "Principal components of the patches",
        f"{_about(result)}; 0 is the mean of all patches, one scale for all",
        margin={"l": 10, "r": 20, "t": 104, "b": 10},
    )
    return hatch(figure, result.outliers[image].unflatten(0, tuple(result.grid)))


def joined_patches(result: NearestPatches, image: int = 0, k: int = 12, spacing: int = 2) -> go.Figure:
    """Two pictures, and lines between the patches that are nearest to one another, most alike first.

    Args:
        k: how many pairs are drawn.
        spacing: a pair is left out where its first patch is less than this many rows and columns from one that is drawn, so
            that lines spread over the picture.
    """
    check_count(k, "k")
    check_count(spacing, "spacing")
    pairs = _spread(result.pairs(image), k, spacing)
    if result.other_pixels is None or not 0 <= image % len(result.values) < len(result.other_pixels):
        raise InputError("this result does not keep the other picture to draw")
    pixels, theirs = result.picture(image), result.other_pixels[image]
    # Both pictures lie on one pair of axes, in patches of the first.
    (rows, columns), (rows_there, columns_there) = result.grid, result.other_grid
    tall = (pixels.shape[0] / rows) / (pixels.shape[1] / columns)
    scale_y = rows / rows_there
    scale_x = rows * tall * theirs.shape[1] / theirs.shape[0] / columns_there
    offset = columns - 0.5 + GAP_IN_PATCHES
    width = offset + columns_there * scale_x
    figure = make_subplots(1, 1)
    for i, (place, there, similarity) in enumerate(pairs):
        x = [place[1], offset + (there[1] + 0.5) * scale_x]
        y = [place[0], -0.5 + (there[0] + 0.5) * scale_y]
        colour = LINES[i % len(LINES)]
        told = f"{place} and {there}: {similarity:.3f}"
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines+markers+text", text=[f"<b>{i + 1}</b>"] * 2,
                textfont={"color": ON_FIELD, "size": 10}, line={"color": colour, "width": 2},
                marker={"color": FIELD, "size": 17, "symbol": "square", "line": {"color": colour, "width": 2.5}},
                hovertemplate=f"patches {told}<extra></extra>", showlegend=False,
            )
        )  # fmt: skip
    for source, left, across in ((pixels, -0.5, columns), (theirs, offset, columns_there * scale_x)):
        figure.add_layout_image(
            source=picture_uri(source), x=left, y=-0.5, sizex=across, sizey=rows, sizing="stretch", layer="below",
            xref="x", yref="y",
        )  # fmt: skip
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(range=[-0.5, width], **hidden)
    figure.update_yaxes(range=[rows - 0.5, -0.5], scaleanchor="x", scaleratio=tall, **hidden)
    n_mutual, method = int(result.mutual[image].sum()), METHOD_WORDS[result.settings["method"]]
    return finish(
        figure,
        "Patches that are nearest to one another",
        f"{_about(result)}, {method}; {n_mutual} mutual pairs among "
        f"{result.values.shape[1]} patches<br>drawn: the {len(pairs)} most alike that are at least {spacing} patches apart"
        + (f", {pairs[0][2]:.2f} to {pairs[-1][2]:.2f}" if pairs else ""),
        height=int(100 + min(SIDE_OF_TWO, 1080 * rows * tall / width)),
        margin={"l": 10, "r": 10, "t": 92, "b": 10},
    )


def similarity_map(result: PatchSimilarity, image: int = 0) -> go.Figure:
    """The picture with the queries outlined, and how like them every patch is."""
    check_index(image, len(result.values), "picture")
    pixels, grid = result.picture(image), (result.grid[0], result.grid[1])
    from_pixels, from_grid = pixels, tuple(result.query_grid)
    if result.query_pixels is not None:
        from_pixels = result.query_pixels[image]
    method = result.settings["method"]
    maps = result.maps()[image].float()
    figure = make_subplots(1, 2, horizontal_spacing=0.02)
    figure.add_trace(patch_heatmap(torch.zeros(from_grid), "", opacity=0.0, showscale=False), row=1, col=1)
    add_picture(figure, picture_uri(from_pixels), from_grid)
    scale: dict[str, Any] = {"zmin": -1.0, "zmax": 1.0, "zmid": 0.0} if method == COSINE else {}
    figure.add_trace(
        patch_heatmap(
            maps,
            f"{METHOD_WORDS[method]} %{{z:.3f}}",
            colorbar=colorbar(METHOD_WORDS[method]),
            **signed_over_picture(maps) | scale,
        ),
        row=1,
        col=2,
    )
    add_picture(figure, picture_uri(pixels, grey=True), grid, col=2)
    keep_shape(figure, pixels, grid)
    n_prefix = result.queries.shape[1] - from_grid[0] * from_grid[1]
    for place in result.queries[image, n_prefix:].nonzero()[:, 0].tolist():
        _frame(figure, divmod(place, from_grid[1]), result.query_pixels is None)
    scale_said = "always from −1 to 1" if method == COSINE else "the ends equally far from 0"
    finish(
        figure,
        f"How like {text(result.settings['queries'])} every patch is",
        f"{_about(result)}; {METHOD_WORDS[method]}, {scale_said}",
        height=int(130 + 380 * aspect(pixels)),
    )
    return hatch(figure, result.outliers[image].unflatten(0, grid))


def _about(result: Result) -> str:
    """The model, and where vectors were read, for a subtitle."""
    hook = result.settings["hook"]
    where = hook if hook == FINAL else f"{hook_in_words(hook)} ({text(hook)})".strip()
    return f"{text(result.settings['model'])}, {where}"


def _coloured(
    colours: Float[Tensor, "rows columns 3"], result: PatchPCA, picture: int, components: Sequence[int]
) -> go.Image:
    """A tile of colours, clear where a patch was left out; the hover has the scores."""
    there = ~colours.isnan().any(dim=-1, keepdim=True)
    bytes_of = (torch.cat([colours.nan_to_num(), there], dim=-1) * 255).round().to(torch.uint8)
    scores = array(result.maps()[picture, list(components)].movedim(0, -1).float())
    told = [
        [
            f"patch ({row}, {column})<br>" + _scores(scores[row, column], components)
            for column in range(colours.shape[1])
        ]
        for row in range(colours.shape[0])
    ]
    return go.Image(
        z=bytes_of.cpu().numpy(), colormodel="rgba256", customdata=told, hovertemplate="%{customdata}<extra></extra>"
    )


def _scores(scores: np.ndarray, components: Sequence[int]) -> str:
    if np.isnan(scores).any():
        return "left out"
    return ", ".join(f"PC{number + 1} {score:.3g}" for number, score in zip(components, scores, strict=True))


def _spread(pairs: list[tuple[Place, Place, float]], k: int, spacing: int) -> list[tuple[Place, Place, float]]:
    """The first k pairs of which no two begin close to one another."""
    drawn: list[tuple[Place, Place, float]] = []
    for pair in pairs:
        far = all(max(abs(a - b) for a, b in zip(pair[0], other[0], strict=True)) >= spacing for other in drawn)
        if far and len(drawn) < k:
            drawn.append(pair)
    return drawn


def _frame(figure: go.Figure, place: Place, on_both: bool) -> None:
    for trace in figure.data[: 2 if on_both else 1]:
        figure.add_shape(
            type="rect", x0=place[1] - 0.5, x1=place[1] + 0.5, y0=place[0] - 0.5, y1=place[0] + 0.5,
            line={"color": OUTLINE, "width": 3}, xref=trace.xaxis, yref=trace.yaxis,
        )  # fmt: skip


FIGURES = {
    PatchPCA: {"colours": pca_colours, "components": pca_components},
    NearestPatches: joined_patches,
    PatchSimilarity: similarity_map,
}
