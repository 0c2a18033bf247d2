"""Lines with their intervals and panels by model: what all figures of result tables are drawn with."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from vitlens.errors import InputError
from vitlens.plots.shared.style import AXIS, COLOURS, text

#: Result tables of several models, by the name that the figure shows.
ByModel = Mapping[str, pd.DataFrame]
PANEL_HEIGHT = 330
#: Lines differ in their marks too: not everyone sees their colours.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")


def panels(
    tables: ByModel, by: Sequence[str] = ("",), shared_yaxes: bool = True, vertical_spacing: float | None = None
) -> go.Figure:
    """One row of panels per entry of `by`, one column per model; a model alone is named by `of_model`, not above panels."""
    if not tables:
        raise InputError("there is no table to draw: pass {model name: table}")
    several = len(tables) > 1
    names = [" · ".join(part for part in (text(model) * several, entry) if part) for entry in by for model in tables]
    figure = make_subplots(
        len(by),
        len(tables),
        subplot_titles=names,
        shared_yaxes="rows" if shared_yaxes else False,
        horizontal_spacing=0.05,
        vertical_spacing=vertical_spacing if vertical_spacing is not None else 0.16 if len(by) > 1 else None,
    )
    return figure.update_layout(height=110 + PANEL_HEIGHT * len(by))


def of_model(tables: ByModel, subtitle: str) -> str:
    """The subtitle, after the model's name where there is one."""
    return f"{text(next(iter(tables)))}; {subtitle}" if len(tables) == 1 else subtitle


def line(
    figure: go.Figure,
    table: pd.DataFrame,
    x: str,
    name: str,
    colour: int,
    *,
    y: str = "mean",
    row: int | None = None,
    col: int | None = None,
    dash: str = "solid",
    legend: bool = True,
    hover: str = "%{y:.3f}",
    markers: bool = True,
) -> None:
    """A line of a table's column over another, with the band from "low" to "high" where the table has them."""
    chosen = COLOURS[colour % len(COLOURS)]
    where: dict[str, Any] = {} if row is None else {"row": row, "col": col}
    at = table[x].to_numpy()
    if {"low", "high"} <= set(table.columns):
        edges = np.concatenate([table["high"].to_numpy(), table["low"].to_numpy()[::-1]])
        r, g, b = hex_to_rgb(chosen)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([at, at[::-1]]), y=edges, mode="lines", fill="toself", fillcolor=f"rgba({r},{g},{b},0.26)",
                line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
            ),
            **where,
        )  # fmt: skip
    interval = ""
    custom = None
    if {"low", "high"} <= set(table.columns):
        custom = table[["low", "high"]].to_numpy()
        low, high = (hover.replace("%{y", f"%{{customdata[{i}]") for i in (0, 1))
        interval = f"<br>95 % interval {low} to {high}"
    figure.add_trace(
        go.Scatter(
            x=at, y=table[y].to_numpy(), name=name, legendgroup=name, showlegend=legend, customdata=custom,
            mode="lines+markers" if markers else "lines",
            line={"color": chosen, "width": 2, "dash": dash}, marker={"size": 6, "symbol": SYMBOLS[colour % len(SYMBOLS)]},
            hovertemplate=f"{name}<br>{x} %{{x}}: {hover}{interval}<extra></extra>",
        ),
        **where,
    )  # fmt: skip


def boxes(
    figure: go.Figure,
    table: pd.DataFrame,
    name: str,
    colour: int,
    *,
    prefix: str = "",
    row: int | None = None,
    col: int | None = None,
    legend: bool = True,
) -> None:
    """Boxes over blocks from quantile columns: q25 to q75, the median, whiskers from q05 to q95."""
    where: dict[str, Any] = {} if row is None else {"row": row, "col": col}
    figure.add_trace(
        go.Box(
            x=table["block"].to_numpy(),
            q1=table[f"{prefix}q25"].to_numpy(), median=table[f"{prefix}median"].to_numpy(),
            q3=table[f"{prefix}q75"].to_numpy(), lowerfence=table[f"{prefix}q05"].to_numpy(),
            upperfence=table[f"{prefix}q95"].to_numpy(),
            name=name, legendgroup=name, showlegend=legend, offsetgroup=name,
            marker_color=COLOURS[colour % len(COLOURS)], line={"width": 1.2},
        ),
        **where,
    )  # fmt: skip


def stars(figure: go.Figure, blocks: Sequence[int], y: float, row: int, col: int) -> None:
    """A star over every block whose test says p < 0.05."""
    if len(blocks):
        figure.add_trace(
            go.Scatter(
                x=list(blocks), y=[y] * len(blocks), mode="text", text=["*"] * len(blocks), textfont={"size": 15},
                hovertemplate="block %{x}: p < 0.05<extra></extra>", showlegend=False,
            ),
            row=row,
            col=col,
        )  # fmt: skip


def block_axes(figure: go.Figure, tables: ByModel) -> None:
    """Titles and ticks of the blocks' axes."""
    n_blocks = max(int(table["block"].max()) + 1 for table in tables.values())
    figure.update_xaxes(title="block", dtick=1 if n_blocks <= 12 else 4, tick0=0)


def depth_axis(tables: ByModel) -> tuple[str, bool]:
    """The column that models are drawn over: blocks where all have as many, else the share of them; and whether they do."""
    alike = len({int(table["block"].max()) for table in tables.values()}) == 1
    return ("block" if alike else "depth"), alike


def label_ends(figure: go.Figure, axis_range: tuple[float, float], xaxis: str = "x", yaxis: str = "y") -> go.Figure:
    """Writes each line's name at its end, apart from its neighbours, in the place of a legend.

    Args:
        axis_range: the lower and the upper end of the y axis, in its own units (powers of ten of a logarithmic one).
    """
    axis = figure.layout[yaxis.replace("y", "yaxis")]
    low, high = axis_range
    ends = []
    for trace in figure.data:
        if trace.type == "scatter" and trace.name and trace.line.color and (trace.xaxis or "x") == xaxis:
            drawn = [(x, y) for x, y in zip(trace.x, trace.y, strict=True) if y is not None and np.isfinite(y)]
            if drawn:
                x, y = drawn[-1]
                ends.append(((np.log10(y) if axis.type == "log" else y), x, trace))
    span, gap = abs(high - low), 0.052 * abs(high - low)
    heights = [(place - low) * (1 if high > low else -1) for place, _, _ in ends]
    order = np.argsort(heights, kind="stable")
    places = np.asarray(heights, dtype=float)
    for one, above in pairwise(order):
        places[above] = max(places[above], places[one] + gap)
    # What was pushed out at the top pushes the others down.
    highest = span
    for i in order[::-1]:
        places[i] = min(places[i], highest)
        highest = places[i] - gap
    for (_, x, trace), place in zip(ends, places.tolist(), strict=True):
        figure.add_annotation(
            x=x, y=low + place if high > low else low - place, xref=xaxis, yref=yaxis, xanchor="left", xshift=7,
            showarrow=False, text=f"<span style='color:{trace.line.color}'>●</span> {trace.name}", font={"size": AXIS},
        )  # fmt: skip
    if ends:
        every = [x for trace in figure.data if (trace.xaxis or "x") == xaxis and trace.x is not None for x in trace.x]
        room = 0.03 * (max(every) - min(every) or 1)
        figure.layout[xaxis.replace("x", "xaxis")].range = [min(every) - room, max(every) + room]
    return figure.update_layout(showlegend=False)


def legend_below(figure: go.Figure) -> go.Figure:
    return figure.update_layout(legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0})
