"""What is left of a class while patches are removed in the order of maps, beside random orders."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from vitlens.plots.shared.series import legend_below, line
from vitlens.plots.shared.style import COLOURS, NEUTRAL, array, finish, text


def removal_curves(
    removed: Sequence[float],
    by_map: Mapping[str, Float[Tensor, "step"]],
    by_chance: Float[Tensor, "order step"],
    class_name: str,
    model_name: str,
) -> go.Figure:
    """The class's probability while patches leave the sequence, most important first, of one picture.

    Args:
        removed: the shares of the patches that are gone.
        by_map: the probabilities in the order of each map.
        by_chance: in random orders, whose mean is drawn and whose range is the band.
    """
    figure, share = go.Figure(), 100 * np.asarray(removed)
    chance = array(by_chance)
    table = pd.DataFrame(
        {"% removed": share, "mean": chance.mean(axis=0), "low": chance.min(axis=0), "high": chance.max(axis=0)}
    )
    line(figure, table.drop(columns=["low", "high"]), "% removed", "at random", COLOURS.index(NEUTRAL), dash="dash")
    figure.add_trace(
        go.Scatter(
            x=np.concatenate([share, share[::-1]]), y=np.concatenate([table["high"], table["low"][::-1]]), mode="lines",
            fill="toself", fillcolor="rgba(125,133,147,0.2)", line={"width": 0}, hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    for i, (name, curve) in enumerate(by_map.items()):
        line(figure, pd.DataFrame({"% removed": share, "mean": array(curve)}), "% removed", text(name), i)
    figure.update_xaxes(title="% of patches removed")
    figure.update_yaxes(title="probability", rangemode="tozero", tickformat=".0%")
    return legend_below(
        finish(
            figure,
            f"What is left of “{text(class_name)}” without these patches",
            f"{text(model_name)}; most important first; lower is better<br>band: the range of {len(chance)} random orders",
            height=470,
            margin={"l": 60, "r": 20, "t": 100, "b": 110},
        )
    )
