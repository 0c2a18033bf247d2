"""Figures of what features do to the answer: their shares of a logit, and what the answer is without them."""

from collections.abc import Sequence
from math import isnan

import pandas as pd
import plotly.graph_objects as go

from vitlens.data.class_names import short_name
from vitlens.features.attribution import FeatureAttribution
from vitlens.features.effects import FeatureEffects
from vitlens.plots.shared.style import LOWERS, NEUTRAL, RAISES, finish, text

#: Classes that differ between pictures, in words.
EFFECT_WORDS = {"predicted": "predicted class", "label": "true class"}


def feature_bars(attribution: FeatureAttribution, k: int = 15, image: int = 0, class_position: int = 0) -> go.Figure:
    """The k features that weigh most in a logit, and the part that the dictionary does not explain."""
    table = attribution.top(k, image, class_position)
    named = attribution.values[image, class_position].sum().item() - float(table["logit"].sum())
    others = {
        "other features": named,
        "error": attribution.error[image, class_position].item(),
        "bias": attribution.bias[image, class_position].item(),
        "rest": attribution.rest[image, class_position].item(),
    }
    names = [f"feature {feature}" for feature in table["feature"]] + list(others)
    shares = [*table["logit"].tolist(), *others.values()]
    colours = [RAISES if share > 0 else LOWERS for share in shares[: len(table)]] + [NEUTRAL] * len(others)
    figure = go.Figure(
        go.Bar(
            x=shares,
            y=names,
            orientation="h",
            marker={"color": colours},
            hovertemplate="%{y}: %{x:+.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title=attribution.quantity)
    figure.add_vline(x=0, line={"width": 1})
    logit = attribution.logits[image, class_position].item()
    return finish(
        figure,
        f"Which features say “{text(attribution.class_label(image, class_position))}”",
        f"{text(attribution.settings['hook'])}, {attribution.settings['method']}; all bars sum to the logit {logit:.3f}",
        height=140 + 22 * len(names),
        margin={"l": 110, "r": 20, "t": 90, "b": 50},
    )


def feature_effect_bars(result: FeatureEffects, k: int = 15) -> go.Figure:
    """How much the answers move when single features are removed: the k features whose removal moves them most.

    Bars are the change of the first class's logit, the mean over the pictures in which the feature is active, with its
    95 % interval.
    """
    table = result.means()
    table = table[(table["class"] == result.axes["class"][0]) & (table["images"] > 0)]
    table = table.sort_values("kl", ascending=False).head(k)
    names = [f"feature {feature}" for feature in table["feature"]]
    figure = go.Figure(bars_with_intervals(table, names))
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(names))), ticktext=names)
    named = result.axes["class"][0]
    whose = f"each picture’s {EFFECT_WORDS[named]}" if named in EFFECT_WORDS else f"“{text(short_name(named))}”"
    figure.update_xaxes(title=f"change of the logit of {whose}", zeroline=True, zerolinecolor=NEUTRAL)
    return finish(
        figure,
        "The answer without single features",
        f"{text(result.settings['model'])}, {text(result.settings['hook'])}<br>"
        "mean where the feature is active, 95 % interval; ordered by KL divergence",
        height=170 + 24 * max(3, len(names)),
        margin={"l": 90, "r": 20, "t": 104, "b": 50},
    )


def bars_with_intervals(table: pd.DataFrame, names: Sequence[str]) -> go.Bar:
    """Horizontal bars of "change" with their intervals, the first uppermost."""
    change, low, high = (table[column].to_numpy() for column in ("change", "low", "high"))
    told = [
        [
            name,
            f"mean over {images} picture{'s' * (images != 1)}"
            + ("" if isnan(bottom) else f"<br>95 % interval {bottom:+.3g} to {top:+.3g}")
            + f"<br>KL divergence of the answers {kl:.3g}",
        ]
        for name, images, bottom, top, kl in zip(names, table["images"], low, high, table["kl"], strict=True)
    ]
    return go.Bar(
        x=change, y=list(range(len(table))), orientation="h", customdata=told,
        error_x={"array": high - change, "arrayminus": change - low, "thickness": 1, "width": 3},
        marker={"color": [RAISES if value > 0 else LOWERS for value in change]},
        hovertemplate="%{customdata[0]}: %{x:+.3g}<br>%{customdata[1]}<extra></extra>",
    )  # fmt: skip
