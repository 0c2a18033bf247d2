"""The paper's figures of key-value memories, from result tables by model."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.plots.shared.series import (
    PANEL_HEIGHT,
    ByModel,
    block_axes,
    boxes,
    depth_axis,
    legend_below,
    line,
    of_model,
    panels,
)
from vitlens.plots.shared.style import COLOURS, FEWEST, NEUTRAL, finish, text

PARTS = {"attn": "attention", "mlp": "MLP"}
MARGIN = {"l": 60, "r": 20, "t": 104, "b": 90}


def class_value_boxes(tables: ByModel) -> go.Figure:
    """Figure 6: the largest cosine of each class with a value vector, over blocks; line: what chance gives."""
    figure = panels(tables, list(PARTS.values()))
    for col, table in enumerate(tables.values(), start=1):
        for row, part in enumerate(PARTS, start=1):
            scores = table[table["part"] == part]
            grouped = scores.groupby("block")["score"].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()
            grouped.columns = ["q05", "q25", "median", "q75", "q95"]
            boxes(figure, grouped.reset_index(), PARTS[part], row - 1, row=row, col=col, legend=col == 1)
            chance = scores.groupby("block")["chance"].first().reset_index()
            line(
                figure, chance, "block", "random directions", 6, y="chance", row=row, col=col, dash="dash",
                legend=col == 1 and row == 1, markers=False,
            )  # fmt: skip
    block_axes(figure, tables)
    figure.update_yaxes(title="largest cosine", col=1)
    return legend_below(
        finish(
            figure,
            "Class-value agreement",
            of_model(
                tables,
                "each class's embedding and the value vector nearest to it; boxes over classes, whiskers 5 % to 95 %",
            ),
            margin=MARGIN,
        )
    )


def agreement_rates(tables: ByModel) -> go.Figure:
    """Figure 7: percent of tokens at which a memory that fires has to do with the class: a dot per class, and the mean."""
    figure = panels(tables, list(PARTS.values()))
    generator = np.random.default_rng(0)
    for col, table in enumerate(tables.values(), start=1):
        for row, part in enumerate(PARTS, start=1):
            chosen = table[table["part"] == part]
            spread = chosen["block"].to_numpy(dtype=float) + generator.uniform(-0.25, 0.25, len(chosen))
            figure.add_trace(
                go.Scattergl(
                    x=spread, y=chosen["rate"].to_numpy(), mode="markers", showlegend=False,
                    marker={"size": 6, "color": COLOURS[row - 1], "opacity": 0.8, "line": {"color": NEUTRAL, "width": 0.7}},
                    customdata=chosen["class_index"].to_numpy(),
                    hovertemplate="class %{customdata}: %{y:.1f} %<extra></extra>",
                ),
                row=row,
                col=col,
            )  # fmt: skip
            means = chosen.groupby("block")["rate"].mean().reset_index()
            line(
                figure, means, "block", "mean over classes", 6, y="rate", row=row, col=col,
                legend=col == 1 and row == 1, hover="%{y:.1f} %",
            )  # fmt: skip
    block_axes(figure, tables)
    figure.update_yaxes(title="% of tokens", rangemode="tozero", col=1)
    return legend_below(
        finish(
            figure, "Key-value agreement", of_model(tables, "a dot per class: the mean of its pictures"), margin=MARGIN
        )
    )


def memory_overview(class_value: ByModel, rates: ByModel) -> go.Figure:
    """Figure 8: class-value agreement and key-value rate over blocks, attention and MLP apart.

    Models of several depths are drawn over the share of their blocks.
    """
    x, alike = depth_axis(class_value)
    titles = [f"{what}, {part}" for what in ("largest cosine", "key-value rate (%)") for part in PARTS.values()]
    figure = make_subplots(1, 4, subplot_titles=titles, horizontal_spacing=0.05)
    for i, model in enumerate(class_value):
        for j, part in enumerate(PARTS):
            scores = class_value[model][class_value[model]["part"] == part]
            means = scores.groupby("block")["score"].mean().rename("mean").reset_index()
            agree = rates[model][rates[model]["part"] == part]
            for col, table in ((j + 1, means), (j + 3, agree)):
                depth = table if alike else table.assign(depth=(table["block"] + 1) / (table["block"].max() + 1))
                line(figure, depth, x, text(model), i, row=1, col=col, legend=col == 1)
    figure.update_xaxes(title="block" if alike else "depth (block / blocks)")
    figure.update_yaxes(rangemode="tozero")
    return legend_below(
        finish(
            figure,
            "Memories of classes over blocks",
            of_model(class_value, "mean over classes (cosine), over pictures with 95 % interval (rate)"),
            height=110 + PANEL_HEIGHT,
            margin=MARGIN,
        )
    )


def agreement_difference(tables: ByModel) -> go.Figure:
    """Figure 9: key-value agreement of correctly minus that of wrongly classified pictures; * by permutation.

    Where fewer than ten pictures were right, or wrong, bars are grey and nothing is marked.
    """
    figure = panels(tables, list(PARTS.values()))
    for col, table in enumerate(tables.values(), start=1):
        few = min(table["n_correct"].min(), table["n_wrong"].min()) < FEWEST
        for row, part in enumerate(PARTS, start=1):
            chosen = table[table["part"] == part]
            marks = ["*" if p < 0.05 and not few else "" for p in chosen["p"]]
            figure.add_trace(
                go.Bar(
                    x=chosen["block"].to_numpy(), y=chosen["difference"].to_numpy(),
                    marker_color=NEUTRAL if few else COLOURS[row - 1],
                    text=marks, textposition="outside", showlegend=False, customdata=chosen["p"].to_numpy(),
                    hovertemplate="block %{x}: %{y:.1f} points<br>p %{customdata:.3f}<extra></extra>",
                ),
                row=row,
                col=col,
            )  # fmt: skip
    block_axes(figure, tables)
    figure.update_yaxes(title="points", col=1)
    first = next(iter(tables.values()))
    n_correct, n_wrong = first["n_correct"].iloc[0], first["n_wrong"].iloc[0]
    meaning = "* permutation p < 0.05"
    if min(n_correct, n_wrong) < FEWEST:
        meaning = f"fewer than {FEWEST} of a kind are too few to compare: grey, without marks"
    return finish(
        figure,
        "Agreement where the model is right, minus where it is wrong",
        of_model(tables, f"{n_correct:,} right, {n_wrong:,} wrong{' (first model)' * (len(tables) > 1)}; {meaning}"),
        margin={**MARGIN, "b": 50},
    )


def composition_lines(tables: ByModel) -> go.Figure:
    """Figure 10: percent of tokens whose layer predicts the top class of one of its five strongest memories."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, (part, name) in enumerate(PARTS.items()):
            chosen: pd.DataFrame = table[table["part"] == part]
            line(figure, chosen, "block", name, i, row=1, col=col, legend=col == 1, hover="%{y:.1f} %")
    block_axes(figure, tables)
    figure.update_yaxes(title="% of tokens", rangemode="tozero", col=1)
    return legend_below(
        finish(
            figure,
            "Predictions that one memory explains",
            of_model(tables, "the layer's top-1 class is the top-1 class of one of its five strongest memories"),
            margin=MARGIN,
        )
    )
