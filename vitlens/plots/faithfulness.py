"""Figures of how faithful heatmaps are: the curves behind the metrics, and the table of methods × metrics."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.analysis.statistics import bootstrap
from vitlens.errors import InputError
from vitlens.heatmap_scores.metrics import CURVES, METRICS
from vitlens.heatmap_scores.result import Faithfulness
from vitlens.plots.series import legend_below, line
from vitlens.plots.style import COLOURS, NEUTRAL, ON_FIELD, PALE, finish, text

#: Baselines are grey, told apart by their dashes; methods have the other colours, and other dashes when these run out.
GREY = COLOURS.index(NEUTRAL)
BASELINE_DASHES = {"random": "dash", "random_map": "dash", "centre_prior": "dot", "raw_attention": "dashdot"}
METHOD_COLOURS = [i for i in range(len(COLOURS)) if i != GREY]
METHOD_DASHES = ("solid", "longdash", "longdashdot")
LONGEST = 40
PANEL_HEIGHT, MOST_COLUMNS = 250, 4


def faithfulness_curves(
    result: Faithfulness, curves: Sequence[str] | None = None, methods: Sequence[str] | None = None
) -> go.Figure:
    """The mean curve of every map, a panel for each metric that has one; around random maps the 95 % interval.

    Args:
        curves: names of the curves to show; by default all.
        methods: names of the maps to show; by default all.

    Raises:
        InputError: a result without curves, or a curve or method that it does not have.
    """
    names = result.curve_names if curves is None else list(curves)
    shown = result.axes["method"] if methods is None else list(methods)
    if not names or not shown:
        raise InputError("there is no curve to show: deletion, insertion, negative, positive and others have one")
    for method in set(shown) - set(result.axes["method"]):
        raise InputError(f"there is no method {method!r} in this result: it has {', '.join(result.axes['method'])}")
    columns = min(MOST_COLUMNS, len(names)) if len(names) != 6 else 3
    rows = math.ceil(len(names) / columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[_readable(METRICS[name].title) for name in names],
        horizontal_spacing=0.07, vertical_spacing=0.2 / max(1, rows - 1) if rows > 1 else 0,
    )  # fmt: skip
    looks = _looks(result.axes["method"])
    for panel, name in enumerate(names):
        row, col = panel // columns + 1, panel % columns + 1
        shares, values = result.curve(name)
        x = CURVES[name].x.replace("share", "%")
        for method in shown:
            curve = values[result.axes["method"].index(method)].double().cpu().numpy()
            table = pd.DataFrame({x: 100 * np.array(shares), "mean": curve.mean(axis=0)})
            if method in ("random", "random_map"):
                _, table["low"], table["high"] = bootstrap(curve)
            colour, dash = looks[method]
            line(
                figure, table, x, _readable(method), colour, row=row, col=col, dash=dash, legend=panel == 0,
                markers=len(shares) < 6,
            )  # fmt: skip
        figure.update_xaxes(title={"text": x, "font": {"size": 11}}, row=row, col=col)
        figure.update_yaxes(title={"text": CURVES[name].quantity, "font": {"size": 11}}, row=row, col=col)
    figure.update_yaxes(rangemode="tozero")
    for title in figure.layout.annotations:
        title.update(font={"size": 13})
    # A legend of long names takes several rows.
    widest = 50 + 7 * max(len(_readable(method)) for method in shown)
    below = 70 + 20 * math.ceil(len(shown) / max(1, 1000 // widest))
    return legend_below(
        finish(
            figure,
            "What becomes of the class while patches go or come, in the order of each map",
            f"{text(result.protocol(), longest=110)}<br>mean over pictures; the area under a curve (of road its mean) is "
            "the metric: ↑ higher is better, ↓ lower; band: 95 % interval of random maps",
            height=120 + rows * (PANEL_HEIGHT + 40) + below,
            margin={"l": 60, "r": 20, "t": 120, "b": below},
        )
    )


def faithfulness_table(result: Faithfulness, level: float = 0.95) -> go.Figure:
    """Methods × metrics: the mean over pictures with its interval, coloured within each column from worst to best."""
    table = result.table(level)
    metrics = [METRICS[name] for name in result.axes["metric"]]
    cells = np.stack([table[metric.name].to_numpy() for metric in metrics], axis=1)
    goodness = np.stack(
        [_goodness(cells[:, j, 0], metric.higher_is_better) for j, metric in enumerate(metrics)], axis=1
    )  # fmt: skip
    places = 3 if len(metrics) < 12 else 2
    written = [[_cell(*pair, places) for pair in zip(*row, strict=True)] for row in zip(cells, goodness, strict=True)]
    names = [_readable(method) for method in table.index]
    figure = go.Figure(
        go.Heatmap(
            z=goodness.astype("float32"),
            x=[f"{metric.name.replace('_', '<br>')} {metric.arrow}" for metric in metrics],
            text=written, texttemplate="%{text}", textfont={"size": 12, "color": ON_FIELD},
            hovertext=[[name] * len(metrics) for name in names], customdata=cells,
            colorscale=PALE, zmin=0, zmax=1, xgap=2, ygap=2, showscale=False,
            hovertemplate="%{hovertext}<br>%{x}: %{customdata[0]:.4f}<br>"
            f"{level:.0%} interval %{{customdata[1]:.4f}} to %{{customdata[2]:.4f}}<extra></extra>",
        )
    )  # fmt: skip
    tick_size = 12 if len(metrics) < 9 else 11
    figure.update_xaxes(side="top", type="category", tickangle=0, showgrid=False, tickfont={"size": tick_size})
    # By number: names that are cut to the same letters are still two rows.
    rows = list(range(len(names)))
    figure.update_yaxes(
        autorange="reversed", tickvals=rows, ticktext=names, showgrid=False, zeroline=False, automargin=True
    )
    return finish(
        figure,
        "How faithful the maps are",
        f"{text(result.protocol(), longest=110)}<br>mean over pictures [{level:.0%} interval]; colour: each column from "
        "its worst (violet) to its best (yellow, bold)",
        height=190 + 46 * len(table),
        margin={"l": 60, "r": 20, "t": 150, "b": 20},
    )


def _looks(methods: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Colour and dash of each line."""
    looks = {method: (GREY, dash) for method, dash in BASELINE_DASHES.items() if method in methods}
    for i, method in enumerate(method for method in methods if method not in looks):
        n_colours = len(METHOD_COLOURS)
        looks[method] = METHOD_COLOURS[i % n_colours], METHOD_DASHES[i // n_colours % len(METHOD_DASHES)]
    return looks


def _readable(name: str) -> str:
    return text(name.replace("_", " "), longest=LONGEST)


def _goodness(means: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """From 0, the worst of a column, to 1, its best; NaN stays."""
    if np.isnan(means).all():
        return means
    low, high = np.nanmin(means), np.nanmax(means)
    share = (means - low) / (high - low) if high > low else np.where(np.isnan(means), np.nan, 0.5)
    return share if higher_is_better else 1 - share


def _cell(ends: np.ndarray, goodness: float, places: int) -> str:
    mean, lower, upper = ends
    if np.isnan(mean):
        return "–"
    number = _number(mean, 3)
    interval = f"[{_number(lower, places)}, {_number(upper, places)}]"
    return f"{f'<b>{number}</b>' if goodness == 1 else number}<br><span style='font-size:9px'>{interval}</span>"


def _number(value: float, places: int) -> str:
    return f"{value:.{places}f}".replace("-", "−")
