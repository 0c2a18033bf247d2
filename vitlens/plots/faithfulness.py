"""Figures of faithfulness: deletion, insertion and other curves, tables of methods × metrics, cascading randomisation."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.errors import InputError
from vitlens.faithfulness.metrics import CURVES, METRICS
from vitlens.faithfulness.perturbation import Perturbation
from vitlens.faithfulness.randomisation import Randomisation
from vitlens.faithfulness.result import Faithfulness
from vitlens.faithfulness.segmentation import MEASURES, Segmentation
from vitlens.plots.perturbation import perturbation_of_batch
from vitlens.plots.shared.series import label_ends, legend_below, line
from vitlens.plots.shared.style import (
    COLOURS,
    FEWEST,
    FIELD,
    NEUTRAL,
    ON_FIELD,
    PALE,
    finish,
    in_percent,
    text,
    true_minus,
)
from vitlens.statistics import bootstrap

#: Baselines are grey and differ in their dashes; methods have the other colours, and other dashes when these run out.
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
        figure.update_xaxes(title=x, row=row, col=col)
        figure.update_yaxes(title=CURVES[name].quantity, row=row, col=col)
    figure.update_yaxes(rangemode="tozero")
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
    """Methods × metrics: the mean over pictures with its interval, coloured within each column from worst to best.

    Of fewer than ten pictures nothing is ranked. Bold is the best of a column whose interval lies beyond all others.
    """
    metrics = [METRICS[name] for name in result.axes["metric"]]
    return _score_table(
        result.summary(level=level),
        {metric.name: metric.higher_is_better for metric in metrics},
        "How faithful the maps are",
        result.protocol(),
        level,
        len(result.axes["image"]),
    )


def segmentation_table(result: Segmentation, level: float = 0.95) -> go.Figure:
    """Methods × measures: how well each map outlines the object, with its interval, coloured within each column."""
    protocol = f"{result.settings['model']}, {len(result.axes['image'])} pictures, foreground above the map's mean"
    return _score_table(
        result.summary(level=level), dict.fromkeys(MEASURES, True), "How well the maps outline the object", protocol, level,
        len(result.axes["image"]),
    )  # fmt: skip


def randomisation_curves(result: Randomisation) -> go.Figure:
    """Cascading randomisation: the rank correlation of each map with the trained model's, from the classifier down."""
    looks, figure = _looks(result.axes["method"]), go.Figure()
    depths = list(range(len(result.axes["depth"])))
    for row, method in enumerate(result.axes["method"]):
        mean, low, high = bootstrap(result.values[row].T.cpu().double().numpy())
        table = pd.DataFrame({"depth": depths, "mean": mean, "low": low, "high": high})
        colour, dash = looks[method]
        line(figure, table, "depth", _readable(method), colour, dash=dash)
    figure.update_xaxes(title="re-initialised", tickvals=depths, ticktext=result.axes["depth"])
    figure.update_yaxes(title="size of the rank correlation", range=[0, 1.03])
    longest = max(len(_readable(method)) for method in result.axes["method"])
    finish(
        figure,
        "Cascading randomisation: do the maps show what was learnt?",
        f"{text(result.settings['model'])}, {len(result.axes['image'])} pictures; with the trained model's maps, mean "
        "and 95 % interval;<br>near 0: the map depends on the weights, 1: it does not",
        height=max(480, 200 + 20 * len(looks)),
        margin={"l": 60, "r": 40 + 7 * longest, "t": 110, "b": 100},
    )
    return label_ends(figure, (0.0, 1.03))


def _score_table(
    table: pd.DataFrame, higher_is_better: Mapping[str, bool], title: str, protocol: str, level: float, n_pictures: int
) -> go.Figure:
    """Means and intervals as text on fields that go, column by column, from the worst to the best."""
    cells = np.stack([table[name].to_numpy() for name in higher_is_better], axis=1)
    ranked = n_pictures >= FEWEST
    columns = [_goodness(cells[:, j, 0], better) for j, better in enumerate(higher_is_better.values())]
    goodness = np.stack(columns, axis=1) if ranked else np.where(np.isnan(cells[..., 0]), np.nan, 0.0)
    wins = [_wins(cells[:, j], better) for j, better in enumerate(higher_is_better.values())]
    bold = np.stack(wins, axis=1) & ranked
    places = 3 if len(columns) < 12 else 2
    written = [
        [_cell(*pair, places, n_pictures > 1) for pair in zip(*row, strict=True)]
        for row in zip(cells, bold.tolist(), strict=True)
    ]
    names = [_readable(method) for method in table.index]
    arrows = {name: "↑" if better else "↓" for name, better in higher_is_better.items()}
    figure = go.Figure(
        go.Heatmap(
            z=goodness.astype("float32"),
            x=[f"{name.replace('_', '<br>')} {arrow}" for name, arrow in arrows.items()],
            text=written, texttemplate="%{text}", textfont={"size": 12, "color": ON_FIELD},
            hovertext=[[name] * len(columns) for name in names], customdata=cells,
            colorscale=PALE if ranked else [[0, FIELD], [1, FIELD]], zmin=0, zmax=1, xgap=2, ygap=2, showscale=False,
            hovertemplate="%{hovertext}<br>%{x}: %{customdata[0]:.4f}<br>"
            f"{in_percent(level)} interval %{{customdata[1]:.4f}} to %{{customdata[2]:.4f}}<extra></extra>",
        )
    )  # fmt: skip
    tick_size = 12 if len(columns) < 9 else 11
    figure.update_xaxes(side="top", type="category", tickangle=0, showgrid=False, tickfont={"size": tick_size})
    # By number: names that are cut to the same letters are still two rows.
    rows = list(range(len(names)))
    figure.update_yaxes(
        autorange="reversed", tickvals=rows, ticktext=names, showgrid=False, zeroline=False, automargin=True
    )
    meaning = (
        "colour: each column from its worst (violet) to its best (yellow); bold: its interval lies beyond all others"
        if ranked
        else f"too few to rank: below {FEWEST} pictures no order, no colour, no bold"
    )
    return finish(
        figure,
        title,
        f"{text(protocol, longest=110)}<br>"
        + (f"mean over pictures [{in_percent(level)} interval]; " if n_pictures > 1 else "")
        + meaning,
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


def _wins(cells: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Whether the interval of a row [mean, low, high] lies on the better side of all others'."""
    low, high = (cells[:, 1], cells[:, 2]) if higher_is_better else (-cells[:, 2], -cells[:, 1])
    known = np.flatnonzero(~np.isnan(low))
    wins = np.zeros(len(cells), dtype=bool)
    if len(known) > 1:
        best = known[np.argmax(low[known])]
        wins[best] = low[best] > max(high[other] for other in known if other != best)
    return wins


def _cell(ends: np.ndarray, bold: bool, places: int, several: bool) -> str:
    mean, low, high = ends
    if np.isnan(mean):
        return "–"
    number = _number(mean, 3)
    if not several:
        # The interval of a single picture is a point.
        return number
    interval = f"[{_number(low, places)}, {_number(high, places)}]"
    return f"{f'<b>{number}</b>' if bold else number}<br><span style='font-size:9px'>{interval}</span>"


def _number(value: float, places: int) -> str:
    return true_minus(f"{value:.{places}f}")


FIGURES = {
    Faithfulness: {"table": faithfulness_table, "curves": faithfulness_curves},
    Segmentation: segmentation_table,
    Randomisation: randomisation_curves,
    Perturbation: perturbation_of_batch,
}
