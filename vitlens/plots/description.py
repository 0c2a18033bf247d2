"""Figures of a description's tokens: norms by block, where outliers sit, norms over the first pictures."""

from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vitlens.description.result import Description
from vitlens.description.token_norms import BIN_EDGES, STATISTICS
from vitlens.errors import InputError
from vitlens.plots.description_heads import (
    about,
    cka_against_matrix,
    cka_matrix,
    distance_boards,
    distance_by_block,
    head_similarity_matrix,
    mass_boards,
    sink_board,
    sink_boards,
)
from vitlens.plots.shared.picture import add_picture, map_axes, patch_heatmap, picture_uri
from vitlens.plots.shared.series import legend_below
from vitlens.plots.shared.style import (
    COLOURS,
    SEQUENTIAL,
    array,
    colorbar,
    finish,
    log_ticks,
    percent_ticks,
    say_none,
    text,
)


def norms_by_block(description: Description) -> go.Figure:
    """The norm of the stream after every block, by kind of token, and the share of outliers among the patches."""
    figure = make_subplots(
        1, 2, subplot_titles=["norm of the stream", "outliers among the patches"], horizontal_spacing=0.09
    )
    blocks = description.axes["block"]
    for i, kind in enumerate(description.settings["kinds"]):
        for statistic, dash in (("mean", "solid"), ("max", "dot")):
            figure.add_trace(
                go.Scatter(
                    x=blocks,
                    y=array(description.token_norms[:, i, STATISTICS.index(statistic)]),
                    name=f"{text(kind)}, {'mean' if statistic == 'mean' else 'largest'}",
                    mode="lines+markers",
                    line={"color": COLOURS[i % len(COLOURS)], "dash": dash},
                    marker={"size": 5},
                    hovertemplate=f"{text(kind)}, {statistic}<br>block %{{x}}: %{{y:.2f}}<extra></extra>",
                ),
                row=1,
                col=1,
            )
    figure.add_trace(
        go.Bar(
            x=blocks,
            y=array(description.outlier_share()),
            marker_color=COLOURS[1],
            showlegend=False,
            customdata=100 * array(description.outlier_share()),
            hovertemplate="block %{x}: %{customdata:.2f} % of the patches<extra></extra>",
        ),
        row=1,
        col=2,
    )
    figure.update_xaxes(title="block", dtick=1 if len(blocks) <= 16 else 2)
    norms = array(description.token_norms[..., [STATISTICS.index(name) for name in ("mean", "max")]])
    figure.update_yaxes(
        type="log", row=1, col=1, **log_ticks(float(norms[norms > 0].min()) / 2, float(norms.max()) * 2)
    )
    most = float(description.outlier_share().max())
    figure.update_yaxes(rangemode="tozero", row=1, col=2, **percent_ticks(most or 0.01))
    if not most:
        figure.update_yaxes(range=[0, 0.01], row=1, col=2)
        say_none(figure, "no outliers in these pictures", 1, 2)
    finish(
        figure,
        "Norms of tokens",
        f"{about(description)}; outliers have more than {description.settings['outlier_threshold']:g} times "
        "the median norm of their picture's patches",
        height=460,
        margin={"l": 60, "r": 20, "t": 104, "b": 90},
    )
    return legend_below(figure)


def outlier_map(description: Description, block: int | None = None) -> go.Figure:
    """Where outliers are after a block, by default the late one, and how the patches' norms are distributed there."""
    block = description.settings["late_block"] if block is None else description.axes["block"][block]
    rows, columns = description.settings["grid"]
    figure = make_subplots(
        1, 2, subplot_titles=["pictures in which a patch is an outlier", "norm / median of the picture's patches"],
        horizontal_spacing=0.2, column_widths=[0.42, 0.58],
    )  # fmt: skip
    share = description.outlier_counts[block] / description.n_images
    bar = {**colorbar(""), "x": 0.34, **percent_ticks()}
    board = patch_heatmap(
        share, "%{customdata:.1f} % of the pictures", colorscale=SEQUENTIAL, zmin=0, zmax=1, colorbar=bar
    )
    figure.add_trace(board.update(customdata=100 * array(share)), row=1, col=1)
    map_axes(figure, (rows, columns))
    if not share.any():
        say_none(figure, "none", 1, 1)
    edges = BIN_EDGES.log10()
    centres = 10 ** torch.cat([edges[:1] - 0.025, (edges[1:] + edges[:-1]) / 2, edges[-1:] + 0.025])
    counts = description.norm_histogram[block]
    shown = counts.nonzero()[:, 0]
    first, last = int(shown[0]), int(shown[-1]) + 1
    figure.add_trace(
        go.Bar(
            x=array(centres[first:last]),
            y=array(counts[first:last] / counts.sum()),
            width=np.asarray(array(centres[first:last])) * 0.11,
            marker_color=COLOURS[0],
            showlegend=False,
            customdata=100 * array(counts[first:last] / counts.sum()),
            hovertemplate="about %{x:.2f} times the median: %{customdata:.2f} % of the patches<extra></extra>",
        ),
        row=1,
        col=2,
    )
    figure.add_vline(
        x=description.settings["outlier_threshold"], line={"dash": "dash", "color": COLOURS[1]}, row=1, col=2
    )
    low = min(float(centres[first]), 0.8) / 1.2
    high = max(float(centres[last - 1]), description.settings["outlier_threshold"]) * 1.6
    figure.update_xaxes(type="log", range=[np.log10(low), np.log10(high)], row=1, col=2, **log_ticks(low, high))
    least = float((counts[counts > 0] / counts.sum()).min())
    figure.update_yaxes(type="log", title="share of patches", row=1, col=2, **log_ticks(least / 10, 1.0, shares=True))
    return finish(
        figure,
        f"Outlier patches after block {block}",
        f"{about(description)}; {rows} × {columns} patches; outliers are right of the dashed line (logarithmic axes)",
        height=440,
        margin={"l": 40, "r": 20, "t": 104, "b": 50},
    )


def example_norms(description: Description, n_blocks: int = 5) -> go.Figure:
    """The first pictures, and their patches' norms after some blocks, the late one among them, in times of the median.

    Raises:
        InputError: the description kept no examples.
    """
    kept = description.example_norms
    n, pixels = len(kept), description.pixels
    if not n:
        raise InputError("the description kept no pictures' norms: describe with n_examples=6")
    late, total = description.settings["late_block"], len(description.axes["block"])
    evenly = np.linspace(0, total - 1, min(n_blocks, total)).round().astype(int)
    blocks = sorted({*evenly.tolist(), late})
    offset = 0 if pixels is None else 1
    figure = make_subplots(
        n,
        len(blocks) + offset,
        column_titles=["picture"] * offset + [f"block {block}" for block in blocks],
        horizontal_spacing=0.01,
        vertical_spacing=0.02,
    )
    for i in range(n):
        maps = kept[i] / kept[i].flatten(1).median(dim=1).values[:, None, None]
        if pixels is not None:
            blank = patch_heatmap(torch.zeros_like(maps[0]), "", 0.0, showscale=False)
            figure.add_trace(blank, row=i + 1, col=1)
            add_picture(figure, picture_uri(pixels[i], longest=224), maps.shape[1:], i + 1, 1)
        for j, block in enumerate(blocks, start=1 + offset):
            board = patch_heatmap(maps[block], "%{z:.2f} times the median", 1.0, coloraxis="coloraxis")
            figure.add_trace(board, row=i + 1, col=j)
            map_axes(figure, maps.shape[1:], i + 1, j)
    end = description.settings["outlier_threshold"]
    figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": end, "colorbar": colorbar("× median")})
    rows, columns = description.settings["grid"]
    each = 1000 / (len(blocks) + offset) * rows / columns
    return finish(
        figure,
        "Norms of the patches over the first pictures",
        f"{about(description)}; the colours end at {end:g} times the median, where outliers begin",
        height=int(130 + n * min(each, 200)),
        margin={"l": 10, "r": 20, "t": 110, "b": 10},
    )


#: The figures of a description by name: `description.plot(name)`.
KINDS: dict[str, Callable[..., go.Figure]] = {
    "norms": norms_by_block,
    "outliers": outlier_map,
    "examples": example_norms,
    "distances": distance_by_block,
    "distance_boards": distance_boards,
    "masses": mass_boards,
    "sinks": sink_board,
    "sink_boards": sink_boards,
    "head_similarity": head_similarity_matrix,
    "cka": cka_matrix,
    "cka_against": cka_against_matrix,
}
FIGURES = {Description: KINDS}
