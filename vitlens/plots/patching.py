"""Figures of interventions: effects over the picture, and by block and token set, head or neuron."""

import textwrap

import plotly.graph_objects as go
from torch import Tensor

from vitlens.patching.results import Intervention, Patching, require_axes
from vitlens.plots.shared.picture import map_tiles, signed_over_picture
from vitlens.plots.shared.places import SITE_WORDS, site_in_words
from vitlens.plots.shared.style import array, cell_numbers, colorbar, diverging, finish, symmetric, text

#: Letters of a subtitle's line, which a figure 600 pixels wide holds.
LONGEST_LINE = 90
#: The quantity that is 0 where nothing changes and 1 where all does, and what is too weak of it to be looked at.
EFFECT, WEAK = "effect", 0.05


def patching_maps(result: Intervention, image: int = 0) -> go.Figure:
    """The effect of patching every patch by itself, block by block, over a picture; that of prefix tokens in the titles.

    Args:
        image: of which (clean) picture; the effect is that over all.

    Raises:
        InputError: not every patch was patched by itself, or there are other axes to select from first.
    """
    quantity, effect = result.shown()
    maps = result.on_grid(effect)
    labels = result.axes["tokens"]
    prefix = [(label, i) for i, label in enumerate(labels) if label.kind != "patch"][:1]
    titles = [
        ", ".join([f"block {block}", *[f"{text(label)} {effect[row, i]:+.2f}" for label, i in prefix]])
        for row, block in enumerate(result.axes["block"])
    ]
    # One picture is the ground of all maps, so wide titles need fewer columns.
    figure = map_tiles(
        maps,
        titles,
        result.picture(image),
        f"{quantity} %{{z:+.4f}}",
        quantity,
        columns=min(4 if prefix else 6, len(titles)),
        **{**signed_over_picture(maps.cpu()), **_ends(quantity, effect)},
    )
    meaning = _meaning(result, "patch")
    more = _more(meaning)
    return finish(
        figure,
        _question(result, "patches", "block by block"),
        meaning,
        height=figure.layout.height + more,
        margin={"l": 10, "r": 20, "t": 112 + more, "b": 10},
    )


def patching_board(result: Intervention) -> go.Figure:
    """The effect by block and token set, head or neuron.

    Raises:
        InputError: there are other axes to select from first.
    """
    inner = [axis for axis in ("tokens", "head", "neuron") if axis in result.axes]
    shown = inner[-1] if inner else "tokens"
    require_axes(result, "block", shown)
    labels = result.axes[shown]
    quantity, effect = result.shown()
    figure = go.Figure(
        go.Heatmap(
            z=array(effect.T),
            x=[f"L{block}" for block in result.axes["block"]],
            y=[text(label) for label in labels],
            **{**diverging(effect.cpu()), **_ends(quantity, effect)},
            colorbar=colorbar(quantity),
            text=cell_numbers(effect.T) if effect.numel() <= 200 else None,
            texttemplate="%{text}" if effect.numel() <= 200 else None,
            hovertemplate="%{x}, %{y}: %{z:+.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title=None if shown == "tokens" else shown, autorange="reversed")
    one = "set of tokens" if shown == "tokens" else shown
    meaning = _meaning(result, one)
    more = _more(meaning)
    return finish(
        figure,
        _question(result, "tokens" if shown == "tokens" else f"{shown}s"),
        meaning,
        height=210 + 32 * max(4, len(labels)) + more,
        margin={"l": 60, "r": 20, "t": 92 + more, "b": 50},
    )


def path_board(result: Intervention) -> go.Figure:
    """The effect of every path: sender × receiver, or along the one that is left after `select`.

    Raises:
        InputError: there are other axes to select from first.
    """
    require_axes(result, "sender", "receiver")
    quantity, effect = result.shown()
    senders, receivers = (result.axes.get(axis, [result.settings.get(axis)]) for axis in ("sender", "receiver"))
    effect = effect.reshape(len(senders), len(receivers))
    figure = go.Figure(
        go.Heatmap(
            z=array(effect),
            x=[text(name) for name in receivers],
            y=[text(name) for name in senders],
            **{**diverging(effect.cpu()), **_ends(quantity, effect)},
            colorbar=colorbar(quantity),
            text=cell_numbers(effect) if effect.numel() <= 100 else None,
            texttemplate="%{text}" if effect.numel() <= 100 else None,
            hovertemplate="%{y} → %{x}: %{z:+.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="receiver", type="category")
    figure.update_yaxes(title="sender", autorange="reversed", type="category")
    meaning = _meaning(result, "path")
    more = _more(meaning)
    return finish(
        figure,
        _question(result, "direct paths"),
        meaning,
        height=210 + 16 * max(8, len(senders)) + more,
        margin={"l": 80, "r": 20, "t": 92 + more, "b": 80},
    )


def patching_figure(result: Intervention, image: int = 0) -> go.Figure:
    """Maps over the picture where every patch was patched by itself; sender × receiver of paths; else block × token set,
    head or neuron."""
    if {"sender", "receiver"} & set(result.axes):
        return path_board(result)
    n_patches = sum(label.kind == "patch" for label in result.axes.get("tokens", []))
    by_patch = n_patches == result.grid[0] * result.grid[1] and not {"head", "neuron"} & set(result.axes)
    return patching_maps(result, image) if by_patch else patching_board(result)


def _question(result: Intervention, what: str, how: str = "") -> str:
    """The title: what is asked of these heads, patches, tokens or paths."""
    asked = f"Which {what} move the decision" if isinstance(result, Patching) else f"Which {what} the decision needs"
    return f"{asked}, {how}" if how else asked


def _ends(quantity: str, values: Tensor) -> dict[str, float]:
    """The same ends for all effects, so that a weak one looks weak; what is larger, or no effect, has its own."""
    if quantity != EFFECT:
        return {}
    end = max(1.0, symmetric(values))
    return {"zmin": -end, "zmax": end}


def _meaning(result: Intervention, one: str) -> str:
    """What the values are measured in, and over how many pictures, in lines of a subtitle; `one` is what a cell is about."""
    n_images = len(result.axes["image"])
    site = str(result.settings["site"])
    where = f"{site_in_words(site)} ({site})" if site in SITE_WORDS and site != "path" else site_in_words(site)
    quantity, shown = result.shown()
    largest = symmetric(shown) if shown.any() else 0.0
    weak = [f"no {one} reaches {WEAK:g}: nothing to see here"] if quantity == EFFECT and largest < WEAK else []
    metric = result.metric_with_classes()
    target, model = result.target.mean().item(), result.settings["model"]
    if not isinstance(result, Patching):
        pictures = f"{n_images} picture{'s' * (n_images != 1)}"
        sentences = [
            f"{model}; {where}, replaced by {result.settings['replacement']}, {pictures}",
            f"{metric}: change from {target:+.2f} (not ablated)",
        ]
    else:
        way = {"denoise": "clean into corrupted", "noise": "corrupted into clean"}[result.settings["direction"]]
        estimate = "" if result.settings["method"] == "exact" else f", estimated by {result.settings['method']}"
        ends = ("effect 0 =", "1 =") if quantity == result.quantity else ("shift from", "towards")
        sentences = [
            f"{model}; {where}, {way}, {n_images} pair{'s' * (n_images != 1)}{estimate}",
            f"{metric}: {ends[0]} {target:+.2f} (unpatched), {ends[1]} {result.source.mean().item():+.2f} (source run)",
            *filter(None, [result.caution()]),
        ]
    sentences += weak
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, LONGEST_LINE)]
    return "<br>".join(text(line, longest=LONGEST_LINE) for line in lines)


def _more(meaning: str) -> int:
    """Pixels for the lines of a subtitle beyond the second."""
    return 18 * max(0, meaning.count("<br>") - 1)


FIGURES = {Intervention: patching_figure}
