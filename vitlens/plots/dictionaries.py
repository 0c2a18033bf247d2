"""Figures of dictionaries: how their training went, what they explain with how many features, and all their measures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.evaluation.result import PRINTED, DictionaryEvaluation
from vitlens.features.training.result import TrainingHistory
from vitlens.model.hooks.hook_points import block_and_site
from vitlens.plots.shared.places import hook_in_words, site_in_words
from vitlens.plots.shared.series import SYMBOLS, legend_below
from vitlens.plots.shared.style import COLOURS, NEUTRAL, SEQUENTIAL, array, finish, log_ticks, percent_ticks, text

#: The measures of a training, as panels are titled.
TRAINING_WORDS = {
    "loss": "loss",
    "explained_variance": "explained variance",
    "l0": "active features (L0)",
    "dead_share": "dead features",
}
#: The columns of a frontier's table that must be there.
FRONTIER_COLUMNS = ("dictionary", "l0", "explained_variance")
#: Measures of a dictionary in words.
MEASURE_WORDS = {
    "explained_variance": "explained variance",
    "l0": "active features per token",
    "dead_share": "share of dead features",
    "dense_share": "share of dense features",
    "kl_sae": "KL from the clean prediction",
    "agreement_sae": "same predicted class",
    "loss_recovered_mean": "loss recovered",
    "morans_i": "Moran's I",
    "monosemanticity": "monosemanticity",
    "class_monosemanticity": "one class (monosemanticity)",
    "probing": "sparse probing",
    "absorption": "absorption",
    "mse": "squared error",
}
#: Panels in a line of the figure of all measures.
N_COLUMNS = 4


def training_curves(history: TrainingHistory) -> go.Figure:
    """The measures of a training over its rows, a panel for each and a line for each hook point."""
    hooks, measures = history.axes["hook"], history.axes["measure"]
    names, site = _names_of_hooks(hooks)
    colours = _colours(len(hooks))
    titles = [TRAINING_WORDS.get(name, name.replace("_", " ")) for name in measures]
    lines = -(-len(measures) // 2)
    figure = make_subplots(lines, 2, subplot_titles=titles, horizontal_spacing=0.1, vertical_spacing=0.15)
    rows = np.asarray(history.axes["row"])
    for i, (hook, name) in enumerate(zip(hooks, names, strict=True)):
        for panel in range(len(measures)):
            values = array(history.values[i, :, panel])
            curve = go.Scatter(
                x=rows, y=values, name=name, legendgroup=hook, showlegend=panel == 0, mode="lines",
                line={"color": colours[i], "width": 2},
                hovertemplate=f"{name}<br>after %{{x:,}} rows: %{{y:.4g}}<extra></extra>",
            )  # fmt: skip
            figure.add_trace(curve, row=panel // 2 + 1, col=panel % 2 + 1)
    training = history.settings.get("training", {})
    for panel, measure in enumerate(measures):
        at = {"row": panel // 2 + 1, "col": panel % 2 + 1}
        figure.update_yaxes(**_training_axis(measure, array(history.values[..., panel]), training.get("k")), **at)
        if measure == "l0" and "k" in training:
            figure.add_hline(y=training["k"], line={"dash": "dot", "width": 1.5}, **at)
    figure.update_xaxes(nticks=6, rangemode="tozero")
    figure.update_xaxes(title="rows (tokens)", row=lines)
    kind = f"; {training['kind']}, k = {training['k']} (dotted)" if {"kind", "k"} <= training.keys() else ""
    finish(
        figure,
        "How the training went",
        f"{text(history.settings.get('model', ''))}, {text(site)}<br>measures of single batches{kind}",
        height=620,
        showlegend=len(hooks) > 1,
        margin={"l": 60, "r": 20, "t": 114, "b": 50 + 22 * (len(hooks) > 1)},
    )
    return legend_below(figure)


def _names_of_hooks(hooks: Sequence[str]) -> tuple[list[str], str]:
    """A line's name for each hook point, and what they have in common: blocks, where all are the same site."""
    places = [block_and_site(hook) for hook in hooks]
    sites = {place[1] for place in places if place is not None}
    if len(hooks) == 1:
        return [text(hook_in_words(hooks[0]).removeprefix("in ") or hooks[0])], hooks[0]
    if None not in places and len(sites) == 1:
        return [f"block {place[0]}" for place in places if place is not None], site_in_words(
            sites.pop().rsplit(".")[-1]
        )
    return [text(hook_in_words(hook).removeprefix("in ") or hook) for hook in hooks], f"{len(hooks)} hook points"


def _colours(n: int) -> list[str]:
    """A colour for each of n lines: distinct ones while there are enough, else from dark to bright in order."""
    if n <= len(COLOURS):
        return list(COLOURS[:n])
    return sample_colorscale(SEQUENTIAL, [0.92 * i / (n - 1) for i in range(n)])


def _training_axis(measure: str, values: np.ndarray, k: int | None) -> dict[str, Any]:
    """The y axis of a measure, whose values are these."""
    low, high = float(values.min()), float(values.max())
    if measure == "explained_variance":
        # What the first batches explain may lie so far below 0 that it would hide all the rest.
        return {"range": [min(0.0, max(-0.1, low)), 1.02], **percent_ticks()}
    if measure == "dead_share":
        end = max(0.05, 1.08 * high)
        return {"range": [-0.02 * end, end], **percent_ticks(end)}
    if measure == "l0" and low > 0:
        wanted = low if k is None else k
        low, high = min(low, wanted) / 2, max(high, wanted) * 2
    if low > 0 and high / low >= 4:
        ends = [float(np.log10(low)) - 0.03, float(np.log10(high)) + 0.03]
        return {"type": "log", "range": ends, **log_ticks(10 ** ends[0], 10 ** ends[1])}
    return {}


@checked
def dictionary_frontier(table: pd.DataFrame) -> go.Figure:
    """The explained variance of dictionaries against the mean number of active features, a line for each kind.

    Args:
        table: a row for each dictionary, with the columns "dictionary" (rows of one name are one line), "l0" and
            "explained_variance"; where there are such columns, "low" and "high" are the ends of an interval of the explained
            variance, rows with a true "baseline" are dashed, each "hook" has a panel of its own, and "model" and "tokens"
            are named below the title where all rows have the same.

    Raises:
        InputError: no rows, or a column is missing.
    """
    missing = [name for name in FRONTIER_COLUMNS if name not in table.columns]
    if missing or table.empty:
        what = ", ".join(missing) or "rows"
        raise InputError(f"a frontier needs rows with the columns {', '.join(FRONTIER_COLUMNS)}; missing: {what}")
    by_hook = dict(list(table.groupby("hook", sort=False))) if "hook" in table.columns else {"": table}
    titles, site = _names_of_hooks([str(hook) for hook in by_hook]) if "hook" in table.columns else ([], "")
    figure = make_subplots(
        1, len(by_hook), subplot_titles=titles if len(by_hook) > 1 else None, shared_yaxes=True, horizontal_spacing=0.04
    )
    kinds = list(dict.fromkeys(table["dictionary"]))
    for col, rows in enumerate(by_hook.values(), start=1):
        for name, own in rows.groupby("dictionary", sort=False):
            figure.add_trace(
                _frontier_line(own.sort_values("l0"), kinds.index(name), _is_first(figure, name)), row=1, col=col
            )
    active = table["l0"].clip(lower=0.1)
    ends = np.log10([0.8 * active.min(), 1.25 * active.max()])
    figure.update_xaxes(
        type="log", range=list(ends), title="active features per token (L0)", **log_ticks(*(10**ends).tolist())
    )
    least = min(0.0, float(table["explained_variance"].min()))
    figure.update_yaxes(range=[max(least, -0.5) - 0.02, 1.02], **percent_ticks())
    figure.update_yaxes(title="explained variance", col=1)
    same = {
        name: text(table[name].iloc[0]) for name in ("model", "tokens") if name in table and table[name].nunique() == 1
    }
    where = titles[0] if len(titles) == 1 else site
    about = [same.get("model"), where, f"tokens: {same['tokens']}" if "tokens" in same else ""]
    finish(
        figure,
        "What dictionaries explain",
        ", ".join(filter(None, about)) + "<br>more variance with fewer active features (upper left) is better",
        height=540,
        margin={"l": 60, "r": 20, "t": 114, "b": 110},
    )
    return legend_below(figure)


def _is_first(figure: go.Figure, name: str) -> bool:
    return all(trace.legendgroup != str(name) for trace in figure.data)


def _frontier_line(rows: pd.DataFrame, number: int, legend: bool) -> go.Scatter:
    """The dictionaries of one name, with their intervals where they are known; baselines are grey and dashed."""
    name = str(rows["dictionary"].iloc[0])
    is_baseline = "baseline" in rows.columns and bool(rows["baseline"].any())
    values = rows["explained_variance"].to_numpy()
    bars = None
    if {"low", "high"} <= set(rows.columns):
        bars = {
            "array": rows["high"].to_numpy() - values,
            "arrayminus": values - rows["low"].to_numpy(),
            "thickness": 1,
        }
    return go.Scatter(
        x=rows["l0"].to_numpy(), y=values, error_y=bars, name=text(name), legendgroup=name, showlegend=legend,
        mode="lines+markers", marker={"size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)]},
        line={
            "color": NEUTRAL if is_baseline else COLOURS[number % len(COLOURS)],
            "width": 2,
            "dash": "dash" if is_baseline else "solid",
        },
        hovertemplate=f"{text(name)}<br>%{{x:.3g}} active features, explained variance %{{y:.3f}}<extra></extra>",
    )  # fmt: skip


def judged_dictionaries(evaluation: DictionaryEvaluation) -> go.Figure:
    """A panel for each measure that a printout names: a dot with its interval for each dictionary."""
    names = evaluation.axes["dictionary"]
    shown = [name for name in PRINTED if name in evaluation.axes["measure"]]
    lines = -(-len(shown) // N_COLUMNS)
    figure = make_subplots(
        lines,
        N_COLUMNS,
        subplot_titles=[MEASURE_WORDS[name] for name in shown],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.3 / lines,
    )
    labels = [text(name, 24) for name in names]
    for i, measure in enumerate(shown):
        place = evaluation.axes["measure"].index(measure)
        values, low, high = (array(x[:, place]) for x in (evaluation.values, evaluation.low, evaluation.high))
        at = {"row": i // N_COLUMNS + 1, "col": i % N_COLUMNS + 1}
        dots = go.Scatter(
            x=values, y=labels, mode="markers",
            error_x={"array": high - values, "arrayminus": values - low, "thickness": 1.5, "color": NEUTRAL},
            marker={"size": 9, "color": [COLOURS[1]] + [COLOURS[0]] * (len(names) - 1)},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(dots, **at)
        figure.update_xaxes(nticks=5, **at)
    figure.update_yaxes(autorange="reversed")
    settings = evaluation.settings
    return finish(
        figure,
        "The dictionary compared with others",
        f"{text(settings['model'])}, {text(settings['hook'])}, tokens: {text(settings['tokens'])}, "
        f"{settings['pictures']:,} pictures<br>95 % intervals over pictures, where a measure has one",
        height=120 + lines * (70 + 22 * len(names)),
        showlegend=False,
        margin={"l": 110, "r": 20, "t": 120, "b": 40},
    )


def density_histogram(evaluation: DictionaryEvaluation) -> go.Figure:
    """How often features are on, and the measures of the dictionary."""
    alive = evaluation.density[evaluation.density > 0].double().log10()
    figure = go.Figure(
        go.Histogram(
            x=array(alive), nbinsx=40, marker_color=COLOURS[0],
            hovertemplate="about 10^%{x:.2f} of the rows: %{y} features<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="share of rows that have the feature, log₁₀")
    figure.update_yaxes(title="features")
    there = evaluation.axes["measure"]
    measures = [
        f"{MEASURE_WORDS[name]} {evaluation[name]:.3g}"
        for name in ("explained_variance", "l0", "dead_share", "dense_share")
        if name in there
    ]
    return finish(
        figure,
        "How often features are on",
        f"{text(evaluation.settings['model'])}, {text(evaluation.settings['hook'])}; {', '.join(measures)}",
        height=430,
    )
