"""Lines with their intervals and panels by model: what all figures of result tables are drawn with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from vitlens.errors import InputError
from vitlens.plots.shared.style import COLOURS, text

#: Result tables of several models, by the name that the figure shows.
ByModel = Mapping[str, pd.DataFrame]
PANEL_HEIGHT = 330


def panels(
    tables: ByModel, by: Sequence[str] = ("",), shared_yaxes: bool = True, vertical_spacing: float | None = None
) -> go.Figure:
    """One row of panels per entry of `by`, one column per model."""
    if not tables:
        raise InputError("there is no table to draw: pass {model name: table}")
    names = [" · ".join(part for part in (text(model), entry) if part) for entry in by for model in tables]
    figure = make_subplots(
        len(by),
        len(tables),
        subplot_titles=names,
        shared_yaxes="rows" if shared_yaxes else False,
        horizontal_spacing=0.05,
        vertical_spacing=vertical_spacing if vertical_spacing is not None else 0.16 if len(by) > 1 else None,
    )
    for title in figure.layout.annotations:
        title.update(font={"size": 12})
    return figure.update_layout(height=110 + PANEL_HEIGHT * len(by))


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
                x=np.concatenate([at, at[::-1]]), y=edges, mode="lines", fill="toself", fillcolor=f"rgba({r},{g},{b},0.16)",
                line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
            ),
            **where,
        )  # fmt: skip
    interval = ""
    custom = None
    if {"low", "high"} <= set(table.columns):
        custom = table[["low", "high"]].to_numpy()
        interval = "<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}"
    figure.add_trace(
        go.Scatter(
            x=at, y=table[y].to_numpy(), name=name, legendgroup=name, showlegend=legend, customdata=custom,
            mode="lines+markers" if markers else "lines",
            line={"color": chosen, "width": 2, "dash": dash}, marker={"size": 5},
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


def legend_below(figure: go.Figure) -> go.Figure:
    return figure.update_layout(legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0})
