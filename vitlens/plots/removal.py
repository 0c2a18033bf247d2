"""The probability of a class while patches are removed in the order of maps or in random orders."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, probabilities
from vitlens.plots.lens import predictions
from vitlens.plots.shared.picture import GLAZE, map_tiles
from vitlens.plots.shared.series import label_ends, line
from vitlens.plots.shared.style import COLOURS, NEUTRAL, array, finish, percent_ticks, text
from vitlens.removal.knockouts import Knockout
from vitlens.removal.tokens import TokenAblation


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
            fill="toself", fillcolor="rgba(125,133,147,0.3)", line={"width": 0}, hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    for i, (name, curve) in enumerate(by_map.items()):
        line(figure, pd.DataFrame({"% removed": share, "mean": array(curve)}), "% removed", text(name), i)
    figure.update_xaxes(title="% of patches removed")
    figure.update_yaxes(title="probability", range=[0, 1.02], **percent_ticks())
    names = ["at random", *by_map]
    finish(
        figure,
        f"What is left of “{text(class_name)}” without these patches",
        f"{text(model_name)}; most important first; lower is better<br>band: the range of {len(chance)} random orders",
        height=470,
        margin={"l": 60, "r": min(290, 40 + 7 * max(map(len, names))), "t": 100, "b": 50},
    )
    return label_ends(figure, (0.0, 1.02))


def removal_map(result: TokenAblation, image: int = 0) -> go.Figure:
    """How well the class is read off each patch that stayed, over the picture: 1 − rank / C in the last stream."""
    maps = result.maps(image)
    figure = map_tiles(
        maps[None], ["patches that stayed"], result.picture(image), "identifiability %{z:.3f}", "identifiability",
        colorscale=GLAZE, zmin=0.0, zmax=1.0,
    )  # fmt: skip
    said = "is" if result.correct[image] else "is not"
    gone = int((~result.kept[image]).sum())
    return finish(
        figure,
        f"“{text(short_name(result.class_label(image)))}” without {gone} of the patches",
        f"{text(result.settings['model'])}; the class {said} predicted; identifiability: 1 where a patch reads as the class "
        "first, 0.5 by chance",
        height=430,
        margin={"l": 10, "r": 20, "t": 104, "b": 10},
    )


def knockout_bars(result: Knockout, image: int = 0, k: int = 8) -> go.Figure:
    """What the model says with the edges cut: its top classes and their probabilities, or logits where it has none."""
    names = [result.class_label(image, i) for i in range(result.values.shape[1])]
    values, output, quantity = result.values[image].float(), result.settings["output"], "logit"
    if output in WITH_PROBABILITIES:
        values, quantity = probabilities(values, output), "probability"
    said = predictions(values, names, result.settings["model"], k, quantity)
    return said.update_layout(title_text="What the model predicts without these edges")


FIGURES = {TokenAblation: removal_map, Knockout: knockout_bars}
