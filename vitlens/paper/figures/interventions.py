"""The paper's figures of interventions, heatmaps and probes, from result tables by model."""

import plotly.graph_objects as go

from vitlens.plots.shared.series import ByModel, block_axes, legend_below, line, of_model, panels
from vitlens.plots.shared.style import COLOURS, NEUTRAL, finish, text

MARGIN = {"l": 60, "r": 20, "t": 104, "b": 90}
#: Knockouts and replacements by the names of their tables, as axes show them.
IN_WORDS = {
    "self_only": "patches see only themselves",
    "no_cls": "patches do not see the class token",
}
SITE_NAMES = {"resid_post": "stream", "attn_out": "attention", "mlp_out": "MLP"}


def intervention_bars(tables: ByModel, column: str, title: str) -> go.Figure:
    """Accuracy, and percent of patches at rank 0, under each intervention, with intervals."""
    figure = panels(tables, ["patches that say the class (%)", "accuracy (%)"], vertical_spacing=0.2)
    for col, table in enumerate(tables.values(), start=1):
        for row, quantity in enumerate(("rate_percent", "accuracy_percent"), start=1):
            chosen = table[table[quantity].notna()]
            names = [text(IN_WORDS.get(name, name)) for name in chosen[column]]
            if quantity == "rate_percent" and "unperturbed_rate_percent" in chosen:
                figure.add_trace(
                    go.Bar(
                        x=names, y=chosen["unperturbed_rate_percent"].to_numpy(), name="the same patches, untouched",
                        marker_color=NEUTRAL, showlegend=col == 1,
                        hovertemplate="%{x}<br>untouched %{y:.2f} %<extra></extra>",
                    ),
                    row=row,
                    col=col,
                )  # fmt: skip
            mean = chosen[quantity].to_numpy()
            figure.add_trace(
                go.Bar(
                    x=names, y=mean, marker_color=COLOURS[row - 1], showlegend=False,
                    error_y={
                        "type": "data", "symmetric": False, "thickness": 1.2,
                        "array": chosen[f"{quantity}_high"].to_numpy() - mean,
                        "arrayminus": mean - chosen[f"{quantity}_low"].to_numpy(),
                    },
                    hovertemplate="%{x}<br>%{y:.2f} %<extra></extra>",
                ),
                row=row,
                col=col,
            )  # fmt: skip
    for row, quantity in enumerate(("rate_percent", "accuracy_percent"), start=1):
        columns = [f"{quantity}_high", *(["unperturbed_rate_percent"] * (row == 1))]
        tallest = max(float(table[name].max()) for table in tables.values() for name in columns if name in table)
        figure.update_yaxes(range=[0, 1.08 * (tallest if tallest > 0 else 1)], row=row)
    figure.update_layout(
        barmode="group", height=700, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    )
    return finish(
        figure, title, of_model(tables, "bars: mean over pictures, 95 % interval"), margin={**MARGIN, "t": 128, "b": 60}
    )


def probe_curves(tables: ByModel, tokens: str = "patches") -> go.Figure:
    """Figure 13: accuracy of linear probes against that of the class projection, over blocks."""
    figure = panels(tables)
    for col, table in enumerate(tables.values(), start=1):
        for i, (site, name) in enumerate(SITE_NAMES.items()):
            for readout, dash in (("probe", "solid"), ("projection", "dot")):
                chosen = table[(table["site"] == site) & (table["readout"] == readout) & (table["tokens"] == tokens)]
                line(figure, chosen, "block", f"{name}, {readout}", i, row=1, col=col, legend=col == 1, dash=dash)
    block_axes(figure, tables)
    figure.update_yaxes(title="top-1 accuracy", range=[0, 1.02], col=1)
    return legend_below(
        finish(
            figure, "What a trained probe reads, and what the classifier reads", of_model(tables, tokens), margin=MARGIN
        )
    )
