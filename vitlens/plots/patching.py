"""Figures of activation patching: effects over the picture, and by block and token set or head."""

import plotly.graph_objects as go

from vitlens.analysis.patching import Patching
from vitlens.plots.picture import Pixels, map_tiles
from vitlens.plots.style import array, colorbar, diverging, finish, text


def patching_maps(patching: Patching, pixels: Pixels) -> go.Figure:
    """The effect of patching every patch by itself, block by block, over the picture."""
    maps = patching.maps()
    figure = map_tiles(
        maps,
        [f"block {block}" for block in patching.axes["block"]],
        pixels,
        "effect %{z:+.4f}",
        "effect",
        **diverging(maps.cpu()),
    )
    return finish(
        figure,
        f"Where patching {_site(patching)} moves the decision",
        _meaning(patching),
        margin={"l": 10, "r": 20, "t": 112, "b": 10},
    )


def patching_board(patching: Patching) -> go.Figure:
    """The effect by block and token set, or by block and head."""
    by_head = "head" in patching.axes
    labels = patching.axes["head" if by_head else "tokens"]
    effect = patching.effect()
    figure = go.Figure(
        go.Heatmap(
            z=array(effect.T),
            x=[f"L{block}" for block in patching.axes["block"]],
            y=[text(label) for label in labels],
            **diverging(effect.cpu()),
            colorbar=colorbar("effect"),
            texttemplate="%{z:.2f}" if effect.numel() <= 200 else None,
            hovertemplate="%{x}, %{y}: %{z:+.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="head" if by_head else None, autorange="reversed")
    return finish(
        figure,
        f"Patching {_site(patching)}, block × {'head' if by_head else 'tokens'}",
        _meaning(patching),
        height=210 + 32 * max(4, len(labels)),
        margin={"l": 60, "r": 20, "t": 92, "b": 50},
    )


def _site(patching: Patching) -> str:
    return text(patching.settings["site"])


def _meaning(patching: Patching) -> str:
    """What 0 and 1 are, and over how many pairs."""
    n_pairs = len(patching.axes["image"])
    way = {"denoise": "clean into corrupted", "noise": "corrupted into clean"}[patching.settings["direction"]]
    metric = text(patching.metric_name.replace("_", " "))
    target, source = patching.target.mean().item(), patching.source.mean().item()
    return (
        f"{text(patching.settings['model'])}; {way}, {n_pairs} pair{'s' * (n_pairs != 1)}<br>"
        f"{metric}: effect 0 = {target:+.2f} (unpatched), 1 = {source:+.2f} (source run)"
    )
