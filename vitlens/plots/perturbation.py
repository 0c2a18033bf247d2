"""The perturbation test: what is left of the decision while patches are removed (figure 12)."""

import plotly.graph_objects as go

from vitlens.faithfulness.perturbation import Perturbation
from vitlens.plots.shared.series import ByModel, legend_below, line, of_model, panels
from vitlens.plots.shared.style import finish

MARGIN = {"l": 60, "r": 20, "t": 104, "b": 90}


def perturbation_curves(tables: ByModel, quantity: str = "accuracy") -> go.Figure:
    """Figure 12: accuracy while patches are removed, least important first (left) and most important first (right)."""
    perturbations = {"negative": "least important first", "positive": "most important first"}
    figure = panels(tables, list(perturbations.values()))
    for col, table in enumerate(tables.values(), start=1):
        chosen = table[table["quantity"] == quantity]
        for row, perturbation in enumerate(perturbations, start=1):
            shown = chosen[chosen["perturbation"].isin([perturbation, "either"])]
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
            of_model(tables, "mean over pictures, 95 % interval; above: higher is better, below: lower is better"),
            margin=MARGIN,
        )
    )


def perturbation_of_batch(result: Perturbation) -> go.Figure:
    """`perturbation_curves` of one batch: the mean over its pictures."""
    frame = result.to_frame().groupby(["perturbation", "removed"])[["accuracy", "probability"]].mean().reset_index()
    table = frame.melt(["perturbation", "removed"], var_name="quantity", value_name="mean").assign(method="this order")
    return perturbation_curves({result.settings["model"]: table})
