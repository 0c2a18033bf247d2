"""The paper's figures of interventions, heatmaps and probes, from result tables by model."""

import plotly.graph_objects as go
import torch

from vitlens.analysis.lens import ClassLens
from vitlens.analysis.perturbation import Perturbation
from vitlens.analysis.saliency import Importance
from vitlens.data.class_names import short_name
from vitlens.heatmaps.heatmap import find_method
from vitlens.plots.picture import Pixels, map_tiles
from vitlens.plots.series import ByModel, block_axes, legend_below, line, panels
from vitlens.plots.style import COLOURS, NEUTRAL, SEQUENTIAL, array, diverging, finish, symmetric, text

MARGIN = {"l": 60, "r": 20, "t": 104, "b": 90}
SITE_NAMES = {"resid_post": "stream", "attn_out": "attention", "mlp_out": "MLP"}


def intervention_bars(tables: ByModel, column: str, title: str) -> go.Figure:
    """Accuracy, and percent of patches at rank 0, under each intervention, with intervals."""
    figure = panels(tables, ["patches that say the class (%)", "accuracy (%)"], vertical_spacing=0.2)
    for col, table in enumerate(tables.values(), start=1):
        for row, quantity in enumerate(("rate_percent", "accuracy_percent"), start=1):
            chosen = table[table[quantity].notna()]
            names = [text(name) for name in chosen[column]]
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
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(
        barmode="group", height=700, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    )
    return finish(figure, title, "bars: mean over pictures, 95 % interval", margin={**MARGIN, "t": 128, "b": 60})


def perturbation_curves(tables: ByModel, quantity: str = "accuracy") -> go.Figure:
    """Figure 12: accuracy while patches are removed, least important first (left) and most important first (right)."""
    directions = {"negative": "least important first", "positive": "most important first"}
    figure = panels(tables, list(directions.values()))
    for col, table in enumerate(tables.values(), start=1):
        chosen = table[table["quantity"] == quantity]
        for row, direction in enumerate(directions, start=1):
            shown = chosen[chosen["direction"].isin([direction, "either"])]
            for i, (method, curve) in enumerate(shown.groupby("method", sort=False)):
                line(
                    figure, curve.assign(removed=100 * curve["removed"]), "removed", str(method).replace("_", " "), i,
                    row=row, col=col, legend=col == 1 and row == 1, markers=False,
                    dash="dash" if method == "random" else "solid",
                )  # fmt: skip
    figure.update_xaxes(title="% of patches removed")
    figure.update_yaxes(title=quantity, range=[0, 1.02], col=1)
    return legend_below(
        finish(
            figure,
            "What is left of the decision without these patches",
            "mean over pictures, 95 % interval; above: higher is better, below: lower is better",
            margin=MARGIN,
        )
    )


def perturbation_of_batch(result: Perturbation) -> go.Figure:
    """`perturbation_curves` of one batch: the mean over its pictures."""
    frame = result.to_frame().groupby(["direction", "removed"])[["accuracy", "probability"]].mean().reset_index()
    table = frame.melt(["direction", "removed"], var_name="quantity", value_name="mean").assign(method="this order")
    return perturbation_curves({result.settings["model"]: table})


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
        finish(figure, "What a trained probe reads, and what the classifier reads", tokens, margin=MARGIN)
    )


def importance_maps(result: Importance, pixels: Pixels, image: int = 0, position: int = 0) -> go.Figure:
    """Figure 11: a heatmap over the picture: block by block where the result has blocks, and their sum."""
    method = result.settings["method"].replace("_", " ")
    maps, titles = result.heatmap()[image, position][None], [method]
    if "block" in result.axes:
        by_block = result.values[image, position].sum(dim=1).unflatten(-1, tuple(result.grid))
        maps = torch.cat([by_block, maps])
        titles = [*(f"block {block}" for block in result.axes["block"]), "sum over blocks"]
    name = text(short_name(result.class_label(image, position)))
    signed = find_method(result.settings["method"]).signed
    end = symmetric(maps.float())
    colours = diverging(maps.float().cpu()) if signed else {"colorscale": SEQUENTIAL, "zmin": 0.0, "zmax": end}
    figure = map_tiles(
        maps.float(), titles, pixels, "%{z:.4g}", result.quantity, columns=max(3, min(6, len(titles))), **colours
    )  # fmt: skip
    meaning = (
        "red: speaks for the class, blue: against it" if signed else "without a sign: how much, not for or against"
    )
    return finish(
        figure,
        f"Which patches “{name}” came from: {method}",
        f"{text(result.settings['model'])}; {meaning}",
        margin={"l": 10, "r": 20, "t": 92, "b": 10},
    )


def token_classes(
    lens: ClassLens, block: int = -1, token: int = 0, image: int = 0, site: str | None = None
) -> go.Figure:
    """Figure 14: the classes that one token says most, with their logits."""
    at = (lens.site_index(site), block, image, token)
    names = [text(short_name(name)) for name in lens.top_names(block, token, image, site)]
    figure = go.Figure(
        go.Bar(
            x=array(lens.top_logits[at]), y=names, orientation="h", marker_color=COLOURS[0],
            hovertemplate="%{y}: logit %{x:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="logit")
    where = f"token {lens.axes['token'][token]}, block {lens.axes['block'][block]}, {lens.axes['site'][at[0]]}"
    return finish(
        figure, f"What one token says: {where}", text(lens.settings["model"]), height=360,
        margin={"l": 170, "r": 20, "t": 74, "b": 50},
    )  # fmt: skip
