"""Figures of a direct logit attribution; each shows by how much its parts miss the logit."""

import plotly.graph_objects as go

from vitlens.analysis.attribution import Attribution
from vitlens.data.class_names import short_name
from vitlens.plots.style import COLOURS, array, colorbar, diverging, finish, text


def attribution_waterfall(attribution: Attribution, image: int = 0, position: int = 0) -> go.Figure:
    """Component by component from 0 to the logit."""
    labels = attribution.axes["component"]
    shares = array(attribution.values[image, position])
    logit = attribution.logits[image, position].item()
    figure = go.Figure(
        go.Waterfall(
            x=[*labels, "logit"],
            y=[*shares.tolist(), 0.0],
            measure=["relative"] * len(labels) + ["total"],
            increasing={"marker": {"color": COLOURS[1]}},
            decreasing={"marker": {"color": COLOURS[0]}},
            totals={"marker": {"color": "#5b6270"}},
            connector={"line": {"color": "#c9ced6", "width": 1}},
            hovertemplate="%{x}: %{delta:+.3f}<br>sum so far %{final:.3f}<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"color": "#1f2430", "width": 1})
    figure.update_xaxes(tickangle=-60)
    figure.update_yaxes(title=attribution.quantity)
    return finish(
        figure,
        f"Who writes “{_name(attribution, image, position)}”: direct attribution by component",
        _exactness(attribution, image, position, logit),
        height=460,
        showlegend=False,
    )


def attribution_head_map(attribution: Attribution, image: int = 0, position: int = 0) -> go.Figure:
    """Every head's share of the logit: blocks across, heads down."""
    heads = attribution.head_map(image, position)
    rest = attribution.values[image, position].sum().item() - heads.sum().item()
    logit = attribution.logits[image, position].item()
    figure = go.Figure(
        go.Heatmap(
            z=array(heads.T),
            x=[f"L{block}" for block in range(heads.shape[0])],
            y=[f"H{head}" for head in range(heads.shape[1])],
            **diverging(heads.cpu()),
            colorbar=colorbar(attribution.quantity),
            hovertemplate="%{x}%{y}: %{z:+.3f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="head", autorange="reversed")
    return finish(
        figure,
        f"Which heads write “{_name(attribution, image, position)}”",
        f"heads {heads.sum().item():+.3f}, all else {rest:+.3f}; {_exactness(attribution, image, position, logit)}",
        height=190 + 30 * max(4, heads.shape[1]),
    )


def _name(attribution: Attribution, image: int, position: int) -> str:
    return text(short_name(attribution.class_label(image, position)))


def _exactness(attribution: Attribution, image: int, position: int, logit: float) -> str:
    against = ""
    if attribution.baseline_names is not None:
        against = f" against {text(attribution.baseline_names[min(position, len(attribution.baseline_names) - 1)])}"
    residual = attribution.residual[image, position].item()
    return (
        f"{text(attribution.settings['model'])}{against}; {attribution.quantity} {logit:+.3f}, "
        f"sum − {attribution.quantity} = {residual:+.1e}; norm statistics frozen"
    )
