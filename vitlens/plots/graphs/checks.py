"""Figures about attribution graphs: through which heads edges lead, why heads attend, what is predicted and measured."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.arguments import check_count
from vitlens.circuits.graphs.attention_contributions import AttentionContributions
from vitlens.circuits.graphs.edge_heads import EdgeHeads
from vitlens.circuits.graphs.validation.graph_validation import GraphValidation
from vitlens.plots.shared.series import legend_below
from vitlens.plots.shared.style import COLOURS, NEUTRAL, array, colorbar, diverging, finish, symmetric, text

#: Edges in one figure: more rows than a screen has cannot be read.
MOST_EDGES = 40


def edge_heads_board(result: EdgeHeads, k: int = MOST_EDGES) -> go.Figure:
    """The strongest edges, a row for each and a column for each head: how much of the edge it brought.

    Args:
        k: how many edges.
    """
    check_count(k, "k")
    values = result.values[:k]
    names = [text(edge, longest=80) for edge in result.axes["edge"][:k]]
    figure = go.Figure(
        go.Heatmap(
            z=array(values),
            x=[text(head) for head in result.axes["head"]],
            y=names,
            **diverging(values.cpu()),
            colorbar=colorbar("loading"),
            hovertemplate="%{y}<br>through %{x}: %{z:+.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="the last head before the target", type="category")
    figure.update_yaxes(autorange="reversed", type="category")
    n = len(result.axes["edge"])
    shown = f"the strongest {len(names)} of {n} edges" if len(names) < n else f"{n} edges"
    return finish(
        figure,
        "Which heads bring the graph's edges",
        f"{text(result.settings['model'])}, {shown}; a row sums to the edge's effect",
        height=210 + 20 * max(4, len(names)),
        margin={"l": 60, "r": 20, "t": 92, "b": 50},
    )


def contributions_board(result: AttentionContributions, k: int = 12) -> go.Figure:
    """The nodes that move a head's score most: those of the query's token down, those of the key's across.

    Args:
        k: how many of each.
    """
    check_count(k, "k")
    sides = [result.values.abs().sum(dim=axis).argsort(descending=True, stable=True)[:k] for axis in (1, 0)]
    values = result.values[sides[0]][:, sides[1]]
    names = [
        [text(labels[i]) for i in places.tolist()] for labels, places in zip(result.axes.values(), sides, strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=array(values),
            x=names[1],
            y=names[0],
            **diverging(values.cpu()),
            colorbar=colorbar("contribution"),
            hovertemplate="query: %{y}<br>key: %{x}<br>%{z:+.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    settings = {name: text(value) for name, value in result.settings.items()}
    figure.update_xaxes(title=f"what was written at the key, {settings['key']}", type="category")
    figure.update_yaxes(
        title=f"at the query, {settings['query']}", autorange="reversed", type="category", title_standoff=12
    )
    return finish(
        figure,
        f"Why {settings['head']} attends from {settings['query']} to {settings['key']}",
        f"{settings['model']}; score {result.score:+.2f}, of which positions add {result.bias:+.2f}<br>the nodes that move "
        "it most; all pairs sum to the rest",
        height=330 + 20 * max(4, len(names[0])),
        margin={"l": 60, "r": 20, "t": 114, "b": 120},
    )


def validation_scatter(result: GraphValidation) -> go.Figure:
    """What the graph predicts of each unit against what is measured: in the model, and with frozen patterns and norms."""
    panels = {"in the model": result.values, "with patterns and norms frozen": result.frozen}
    table = result.summary(n_draws=1).set_index(["units", "measured_in"])
    names = [text(unit) for unit in result.axes["unit"]]
    logits = [text(logit) for logit in result.axes["logit"]]
    figure = make_subplots(1, 2, subplot_titles=[f"measured {name}" for name in panels], horizontal_spacing=0.1)
    told = []
    for col, (measured, where) in enumerate(zip(panels.values(), ("model", "frozen model"), strict=True), start=1):
        end = max(symmetric(measured), symmetric(result.predicted))
        figure.add_trace(
            go.Scatter(
                x=[-end, end], y=[-end, end], mode="lines", line={"color": NEUTRAL, "width": 1, "dash": "dot"},
                hoverinfo="skip", showlegend=False,
            ),
            row=1, col=col,
        )  # fmt: skip
        for colour, (units, mine) in enumerate({"named": result.named, "random": ~result.named}.items()):
            if not mine.any():
                continue
            rows = np.flatnonzero(mine.cpu().numpy())
            name = {"named": "the graph's", "random": "random, as active"}[units]
            figure.add_trace(
                go.Scatter(
                    x=array(result.predicted[mine]).flatten(), y=array(measured[mine]).flatten(), mode="markers",
                    marker={"color": COLOURS[colour], "size": 6, "opacity": 0.7}, name=name, legendgroup=units,
                    showlegend=col == 1, hovertext=[f"{names[row]}<br>{logit}" for row in rows for logit in logits],
                    hovertemplate="%{hovertext}<br>predicted %{x:+.4f}, measured %{y:+.4f}<extra></extra>",
                ),
                row=1, col=col,
            )  # fmt: skip
        row = table.loc[("named", where)]
        row = row[row["predicted_by"] == "graph"].iloc[0] if row.ndim > 1 else row
        told.append(f"r = {row['pearson']:.2f}")
    figure.update_xaxes(title="predicted change")
    figure.update_yaxes(title="measured change")
    factor = result.settings["factor"]
    done = "removed" if factor == 0 else f"multiplied by {factor:g}"
    finish(
        figure,
        "Does the graph predict what its units do?",
        f"{text(result.settings['model'])}, {' · '.join(logits[:2])}{' …' if len(logits) > 2 else ''}; each unit {done} "
        f"at its token<br>correlation of the graph's: {told[0]} in the model, {told[1]} where patterns and norms are frozen",
        height=520,
        margin={"l": 60, "r": 20, "t": 114, "b": 90},
    )
    return legend_below(figure)
