"""The figure of a search for shortcuts: how parts differ between groups, and what ablating them costs and gains."""

from math import isnan

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.editing.search.shortcut_result import SIGNIFICANT, Shortcut
from vitlens.plots.shared.style import COLOURS, LOWERS, NEUTRAL, RAISES, array, finish, in_percent, text

#: How many parts are named in the scatter, where names would else lie on each other.
MOST_NAMED = 6
#: The room of a name, as a share of the panel.
NAME_WIDTH, NAME_HEIGHT = 0.3, 0.08


def shortcut_board(result: Shortcut, k: int = 14) -> go.Figure:
    """Left: the k parts whose shares differ most between the groups, with their intervals; faint where p is above 0.05.

    Right: what ablating each part alone does to the margin, outside against inside. Above 0 it helps the group inside; left
    of 0 it costs the others.
    """
    table = result.table()
    shown = table.head(k)
    inside, outside = text(result.settings["inside"]), text(" and ".join(result.settings["outside"]))
    figure = make_subplots(
        1,
        2,
        horizontal_spacing=0.16,
        subplot_titles=["share of the margin", "ablated alone"],
    )
    sure = shown["p"] <= SIGNIFICANT
    figure.add_trace(
        go.Bar(
            x=shown["difference"],
            y=[str(name) for name in shown["component"]],
            orientation="h",
            marker={
                "color": [RAISES if share > 0 else LOWERS for share in shown["difference"]],
                "opacity": [1.0 if one else 0.35 for one in sure],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": shown["high"] - shown["difference"],
                "arrayminus": shown["difference"] - shown["low"],
                "thickness": 1,
                "width": 3,
                "color": NEUTRAL,
            },
            customdata=shown[["low", "high", "p"]],
            hovertemplate="%{y}: %{x:+.3f}<br>%{customdata[0]:+.3f} to %{customdata[1]:+.3f}<br>"
            "p = %{customdata[2]:.3g}<extra></extra>",
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_xaxes(title=f"“{inside}” minus “{outside}”", zeroline=True, zerolinecolor=NEUTRAL, row=1, col=1)
    _scatter(figure, result)
    for axis, name in (("x", outside), ("y", inside)):
        update = figure.update_xaxes if axis == "x" else figure.update_yaxes
        update(
            title=f"change of the margin in “{name}”",
            zeroline=True,
            zerolinecolor=NEUTRAL,
            title_standoff=8,
            row=1,
            col=2,
        )
    accuracies = ", ".join(
        f"“{text(name)}” {in_percent(float(share))} of {n}"
        for name, share, n in zip(result.axes["group"], result.accuracy, result.n.tolist(), strict=True)
    )
    return finish(
        figure,
        f"Which parts differ between “{inside}” and “{outside}”",
        f"{text(result.settings['model'])}; accuracy: {accuracies}<br>means over pictures, "
        f"{in_percent(result.settings['level'])} intervals; faint: p above {SIGNIFICANT}, corrected",
        height=196 + max(320, 24 * len(shown)),
        margin={"l": 120, "r": 20, "t": 112, "b": 84},
        legend={"orientation": "h", "x": 1.0, "xanchor": "right", "y": -0.17, "yanchor": "top"},
    )


def _scatter(figure: go.Figure, result: Shortcut) -> None:
    """What ablating each part does outside against what it does inside, with intervals inside."""
    gain = array(result.change[:, result.inside])
    low, high = array(result.change_low[:, result.inside]), array(result.change_high[:, result.inside])
    cost, p = array(result.over_outside(result.change)), array(result.p)
    ablated = [i for i in range(len(gain)) if not isnan(gain[i])]
    named = _named(result, cost, gain, ablated)
    for place, (label, is_sure) in enumerate({"shares differ, p ≤ 0.05": True, "no difference shown": False}.items()):
        some = [i for i in ablated if (p[i] <= SIGNIFICANT) == is_sure]
        names = [str(result.axes["component"][i]) for i in some]
        figure.add_trace(
            go.Scatter(
                x=cost[some],
                y=gain[some],
                name=label,
                mode="markers+text",
                text=[name if i in named else "" for i, name in zip(some, names, strict=True)],
                textposition=["middle left" if named.get(i) else "middle right" for i in some],
                textfont={"size": 10},
                marker={"color": COLOURS[1] if place == 0 else NEUTRAL, "size": 8},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": high[some] - gain[some],
                    "arrayminus": gain[some] - low[some],
                    "thickness": 1,
                    "width": 0,
                },
                customdata=names,
                hovertemplate="%{customdata}: outside %{x:+.3f}, inside %{y:+.3f}<extra></extra>",
            ),
            row=1,
            col=2,
        )


def _named(result: Shortcut, cost: np.ndarray, gain: np.ndarray, ablated: list[int]) -> dict[int, bool]:
    """The parts whose names are written, and whether to the left of their dots: the strongest, then those that do most.

    A name that would lie on another is left out.
    """
    places = {str(result.axes["component"][i]): i for i in ablated}
    by_size = sorted(ablated, key=lambda i: -abs(gain[i]) - abs(cost[i]))
    width, height = (np.ptp(values[ablated]) or 1.0 for values in (cost, gain)) if ablated else (1.0, 1.0)
    named: dict[int, bool] = {}
    for i in dict.fromkeys([*(places[name] for name in result.strongest(MOST_NAMED)), *by_size]):
        is_free = all(
            abs(cost[i] - cost[j]) > NAME_WIDTH * width or abs(gain[i] - gain[j]) > NAME_HEIGHT * height for j in named
        )
        if is_free and len(named) < MOST_NAMED:
            named[i] = bool(cost[i] > cost[ablated].min() + 0.6 * width)
    return named
