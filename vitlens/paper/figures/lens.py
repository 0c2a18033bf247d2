"""The paper's figures of class projections: identifiability, change, composition, object against context.

Each takes result tables by model, {"ViT-B/32": table, …}, as a run writes them, and shows the models side by side.
"""

import pandas as pd
import plotly.graph_objects as go

from vitlens.plots.shared.series import (
    ByModel,
    block_axes,
    boxes,
    depth_axis,
    legend_below,
    line,
    of_model,
    panels,
    stars,
)
from vitlens.plots.shared.style import SEQUENTIAL, colorbar, finish, in_percent, percent_ticks, text

GROUPS = ("class token", "patches")
MEASURE = "identifiability: 1 where the class comes first, 0.5 by chance"
BOX = "boxes: middle half of the tokens and median; whiskers: 5 % to 95 %"


def identifiability_boxes(tables: ByModel) -> go.Figure:
    """Figure 1: identifiability of the true class over blocks, class token and patches; * above the random model."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, group in enumerate(GROUPS):
            chosen = table[table["tokens"] == group]
            if chosen.empty:
                continue
            boxes(figure, chosen, group, i, row=1, col=col, legend=col == 1)
            if "p_above_random" in chosen and group == "patches":
                stars(figure, chosen[chosen["p_above_random"] < 0.05]["block"].tolist(), 1.04, 1, col)
        figure.add_hline(y=0.5, line={"dash": "dash", "width": 1}, row=1, col=col)
    block_axes(figure, tables)
    figure.update_yaxes(range=[0, 1.08], title="identifiability", col=1)
    figure.update_layout(boxmode="group")
    return legend_below(
        finish(
            figure,
            "How well the class can be read off the tokens",
            of_model(tables, BOX)
            + "<br>dashed: chance; * patches above a re-initialised model (Wilcoxon over pictures, p < 0.05)",
            margin={"l": 60, "r": 20, "t": 120, "b": 80},
        )
    )


def identifiability_curves(tables: ByModel) -> go.Figure:
    """Figure 2: mean identifiability over blocks, one line per model; class token and patches apart.

    Models of several depths are drawn over the share of their blocks.
    """
    x, alike = depth_axis(tables)
    groups = [group for group in GROUPS if any((table["tokens"] == group).any() for table in tables.values())]
    figure = panels({group: pd.DataFrame() for group in groups})
    for col, group in enumerate(groups, start=1):
        for i, (model, table) in enumerate(tables.items()):
            chosen = table[table["tokens"] == group]
            if chosen.empty:
                continue
            depth = chosen if alike else chosen.assign(depth=(chosen["block"] + 1) / (table["block"].max() + 1))
            line(figure, depth, x, text(model), i, row=1, col=col, legend=col == 1)
            if "random_mean" in chosen:
                line(
                    figure, depth.drop(columns=["low", "high"]), x, f"{text(model)}, fresh weights", i,
                    y="random_mean", row=1, col=col, legend=col == 1, dash="dot", markers=False,
                )  # fmt: skip
    figure.update_xaxes(title="block" if alike else "depth (block / blocks)")
    figure.update_yaxes(title="identifiability", col=1)
    return legend_below(
        finish(
            figure,
            "How the class emerges",
            of_model(tables, f"{MEASURE}; mean over pictures, 95 % interval"),
            margin=_margin(),
        )
    )


def change_rates(tables: ByModel) -> go.Figure:
    """Figure 3: share of tokens whose logit of the class rises from block to block, one panel per model."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, group in enumerate(GROUPS):
            chosen = table[table["tokens"] == group]
            if not chosen.empty:
                line(figure, chosen, "block", group, i, row=1, col=col, legend=col == 1)
        figure.add_hline(y=0.5, line={"dash": "dash", "width": 1}, row=1, col=col)
    block_axes(figure, tables)
    figure.update_yaxes(title="share of tokens", range=[0, 1.02], col=1)
    return legend_below(
        finish(
            figure,
            "Where the class's logit rises",
            of_model(tables, "from the block before; dashed: half"),
            margin=_margin(),
        )
    )


def sublayer_changes(tables: ByModel) -> go.Figure:
    """Figure 5, left: share of tokens where what attention or MLP writes says the class more than its input does."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, part in enumerate(("attention", "mlp")):
            for group in GROUPS:
                chosen = table[(table["tokens"] == group) & (table["part"] == part)]
                if not chosen.empty:
                    dash = "solid" if group == "patches" else "dot"
                    line(figure, chosen, "block", f"{part}, {group}", i, row=1, col=col, legend=col == 1, dash=dash)
        figure.add_hline(y=0.5, line={"dash": "dash", "width": 1}, row=1, col=col)
    block_axes(figure, tables)
    figure.update_yaxes(title="share of tokens", range=[0, 1.02], col=1)
    return legend_below(
        finish(figure, "Which sublayer raises the class", of_model(tables, "against its own input"), margin=_margin())
    )


def composition_curves(tables: ByModel, tokens: str = "patches") -> go.Figure:
    """Figure 5, right: which sublayer's top-1 class the stream has after a block.

    Sources may agree with one another, so their shares are separate lines, not parts of a whole.
    """
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, source in enumerate(("previous", "attention", "mlp", "composed")):
            chosen = table[(table["tokens"] == tokens) & (table["source"] == source)]
            line(figure, chosen, "block", source, i, row=1, col=col, legend=col == 1, hover="%{y:.1f} %")
    block_axes(figure, tables)
    figure.update_yaxes(title="% of tokens", range=[0, 102], col=1)
    return legend_below(
        finish(
            figure,
            "Which sublayer's top-1 class the residual stream takes over",
            of_model(tables, tokens) + "; sources may agree with one another, “composed” agrees with none",
            margin=_margin(),
        )
    )


def context_boxes(tables: ByModel) -> go.Figure:
    """Figure 4: identifiability of object against context patches, one panel per model; * a larger one by permutation."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, kind in enumerate(("object", "context")):
            boxes(figure, table, kind, i, prefix=f"{kind}_", row=1, col=col, legend=col == 1)
        certain = table[(table["p_permutation"] < 0.05) & (table["low"] > 0)]
        stars(figure, certain["block"].tolist(), 1.04, 1, col)
    block_axes(figure, tables)
    figure.update_yaxes(range=[0, 1.08], title="identifiability", col=1)
    figure.update_layout(boxmode="group")
    return legend_below(
        finish(
            figure,
            "How well the class can be read off object and context",
            of_model(tables, f"patches of the object and of its context; {BOX}")
            + "<br>* larger in the object: permutation p < 0.05 and the "
            "interval over pictures above 0",
            margin={"l": 60, "r": 20, "t": 120, "b": 80},
        )
    )


def attention_to_context(table: pd.DataFrame, model: str) -> go.Figure:
    """How much of its attention to patches the class token gives to context, by block and head."""
    grid = table.pivot(index="head", columns="block", values="mean")
    expected = float(table["area_share"].iloc[0])
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(dtype="float32"),
            x=grid.columns.to_numpy(), y=grid.index.to_numpy(), colorscale=SEQUENTIAL, zmin=0, zmax=1,
            colorbar=colorbar("share of<br>attention") | percent_ticks(),
            hovertemplate="block %{x}, head %{y}<br>%{z:.3f} of the attention to patches<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title="block", dtick=1)
    figure.update_yaxes(title="head", dtick=1, autorange="reversed")
    return finish(
        figure,
        "How much of the class token's attention goes to context",
        f"{text(model)}; context has {in_percent(expected)} of the patches",
        height=420,
    )


def _margin() -> dict[str, int]:
    return {"l": 60, "r": 20, "t": 104, "b": 90}
