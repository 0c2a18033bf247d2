"""Artefact tokens in maps: hatched, so that nobody takes them for a part of the picture."""

from typing import Any

import plotly.graph_objects as go
from jaxtyping import Bool
from torch import Tensor

from vitlens.plots.shared.style import OUTLINE

#: Said once in a figure whose maps are hatched.
HATCHED = "hatched: artefact tokens"


def hatch(figure: go.Figure, patches: Bool[Tensor, "rows columns"] | None) -> go.Figure:
    """Hatches these patches in every map of the figure, and says so; a figure without any stays as it is."""
    if patches is None or not patches.any():
        return figure
    maps = {(trace.xaxis, trace.yaxis): None for trace in figure.data if _is_map_of(trace, patches)}
    if not maps:
        return figure
    for xaxis, yaxis in maps:
        hatch_one(figure, patches, xaxis, yaxis)
    subtitle = figure.layout.title.subtitle.text
    return figure.update_layout(title_subtitle_text=f"{subtitle}; {HATCHED}" if subtitle else HATCHED)


def hatch_one(figure: go.Figure, patches: Bool[Tensor, "rows columns"], xaxis: str, yaxis: str) -> None:
    """Hatches these patches in the map on these axes."""
    x, y = _strokes(patches)
    figure.add_trace(
        go.Scatter(
            x=x, y=y, mode="lines", line={"color": OUTLINE, "width": 1.5}, hoverinfo="skip", showlegend=False,
            xaxis=xaxis, yaxis=yaxis,
        )
    )  # fmt: skip


def _is_map_of(trace: Any, patches: Bool[Tensor, "rows columns"]) -> bool:
    # What cannot be seen only answers the mouse, over the picture itself.
    return trace.type == "heatmap" and trace.opacity != 0 and trace.z.shape == tuple(patches.shape)


def _strokes(patches: Bool[Tensor, "rows columns"]) -> tuple[list[float | None], list[float | None]]:
    """Three parallel lines and a frame for each patch, as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    frame = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)]
    lines = [[(-0.5, 0.0), (0.0, -0.5)], [(-0.5, 0.5), (0.5, -0.5)], [(0.0, 0.5), (0.5, 0.0)]]
    for row, column in patches.nonzero().tolist():
        for stroke in [frame, *lines]:
            x += [column + across for across, _ in stroke] + [None]
            y += [row + down for _, down in stroke] + [None]
    return x, y
