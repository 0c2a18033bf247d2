"""Figures of a class lens: how a class emerges over the blocks, at a token and over the picture."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.lens.lens import ClassLens
from vitlens.lens.measures import identifiability
from vitlens.lens.probes import Probes
from vitlens.lens.trace import ClassTrace
from vitlens.plots.mosaic import class_mosaic
from vitlens.plots.shared.picture import map_tiles
from vitlens.plots.shared.series import legend_below, line
from vitlens.plots.shared.style import COLOURS, SEQUENTIAL, array, colorbar, diverging, finish, symmetric, text

CLASS_DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")


def predictions(
    probabilities: Float[Tensor, "classes"], names: Sequence[str], model_name: str, k: int = 8
) -> go.Figure:
    """The model's top classes and their probabilities."""
    top = probabilities.topk(min(k, len(probabilities)))
    labels = [text(short_name(names[i])) for i in top.indices.tolist()]
    figure = go.Figure(
        go.Bar(
            x=array(top.values),
            y=labels,
            orientation="h",
            marker_color=COLOURS[0],
            text=[f"{value:.1%}" for value in top.values.tolist()],
            textposition="outside",
            cliponaxis=False,
            hovertext=[text(names[i], 120) for i in top.indices.tolist()],
            hovertemplate="%{hovertext}<br>probability %{x:.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 1.12], tickformat=".0%", title="probability")
    return finish(
        figure,
        "What the model says",
        text(model_name),
        height=430,
        margin={"l": 170, "r": 20, "t": 74, "b": 50},
    )


def lens_trajectory(
    lens: ClassLens, image: int = 0, token: int | Sequence[int] = 0, site: str | None = None
) -> go.Figure:
    """Probability, rank and logit of the lens' classes block by block: a colour for each class, a dash for each token.

    Args:
        token: one or several, by their places among the lens' tokens.
    """
    tokens = [token] if isinstance(token, int) else list(token)
    titles = ["probability", f"rank among {lens.n_classes:,} (0 is best)", "logit"]
    figure = make_subplots(1, 3, subplot_titles=titles, horizontal_spacing=0.07)
    blocks = np.asarray(lens.axes["block"])
    index = lens.site_index(site)
    places = [f"{lens.axes['token'][place]} token" for place in tokens]
    for (place, label), class_position in product(zip(tokens, places, strict=True), range(len(lens.axes["class"]))):
        name = text(short_name(lens.class_label(image, class_position)))
        name = name if len(tokens) == 1 else f"{name}, {label}"
        at = (index, slice(None), image, place, class_position)
        curves = {"probability": lens.probabilities, "rank": lens.ranks, "logit": lens.values}
        for col, (quantity, values) in enumerate(curves.items(), start=1):
            curve = array(values[at])
            figure.add_trace(
                go.Scatter(
                    x=blocks,
                    # Rank 0 stands at 1 of the logarithmic axis.
                    y=curve + (quantity == "rank"),
                    customdata=curve,
                    name=name,
                    legendgroup=name,
                    showlegend=col == 1,
                    mode="lines+markers",
                    marker={"size": 5},
                    line={
                        "color": COLOURS[class_position % len(COLOURS)],
                        "width": 3 if class_position == 0 else 1.8,
                        "dash": CLASS_DASHES[tokens.index(place) % len(CLASS_DASHES)],
                    },
                    hovertemplate=f"{name}<br>block %{{x}}: {quantity} %{{customdata:.4~g}}<extra></extra>",
                ),
                row=1,
                col=col,
            )
    figure.update_xaxes(title="block", dtick=1 if len(blocks) <= 8 else 2)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    ticks = [rank for rank in (0, 1, 2, 5, 10, 100, 1000, 10_000) if rank < lens.n_classes]
    figure.update_yaxes(
        type="log", tickvals=[1 + rank for rank in ticks], ticktext=[f"{rank:,}" for rank in ticks],
        range=[math.log10(lens.n_classes * 1.15), -0.06], row=1, col=2,
    )  # fmt: skip
    for title in figure.layout.annotations:
        title.update(font={"size": 13})
    where = f"the {places[0]}" if len(places) == 1 else f"{len(places)} tokens"
    rows = -(-len(figure.data) // 15)
    finish(
        figure,
        f"How the class emerges: class lens of {where}, {lens.axes['site'][index]}",
        f"{text(lens.settings['model'])}; hidden state through {lens.settings['norm']}, then the classifier",
        height=450 + 20 * rows,
        margin={"l": 60, "r": 20, "t": 96, "b": 60 + 20 * rows},
    )
    return legend_below(figure)


def class_maps(
    lens: ClassLens,
    image: int = 0,
    class_position: int = 0,
    quantity: str = "logit",
    site: str | None = None,
) -> go.Figure:
    """How much each patch by itself reads as one class, block by block, on the picture: a reading, and no location.

    What the class came from is what a heatmap shows that removal confirms: `vitlens.heatmap`, `vitlens.evaluate_heatmaps`.
    """
    maps = lens.maps(quantity, site, image, class_position)
    if quantity == "logit":
        colours = diverging(maps.cpu())
    else:
        colours = {"colorscale": SEQUENTIAL, "zmin": 0.0, "zmax": max(symmetric(maps.cpu()), 1e-12)}
    name = text(short_name(lens.class_label(image, class_position)))
    figure = map_tiles(
        maps,
        [f"block {block}" for block in lens.axes["block"]],
        lens.picture(image),
        f"{quantity} %{{z:.3f}}",
        quantity,
        **colours,
    )
    n_prefix = lens.n_prefix_tokens
    prefix = f"{n_prefix} prefix token{'s' * (n_prefix != 1)} left out" if n_prefix else "no prefix tokens"
    return finish(
        figure,
        f"How much each patch by itself reads as “{name}”",
        f"{text(lens.settings['model'])}; class lens of every patch, {lens.axes['site'][lens.site_index(site)]}, {prefix}; "
        "one scale for all blocks<br>a reading, not a location: removing the patches that read so need not cost the answer",
        margin={"l": 10, "r": 20, "t": 110, "b": 10},
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


def trace_curves(trace: ClassTrace, site: str = "resid_post") -> go.Figure:
    """How well the class is read off the class token and the patches, block by block: the mean of 1 − rank / C."""
    figure = go.Figure()
    for i, (tokens, table) in enumerate(identifiability(trace, site=site).groupby("tokens", sort=False)):
        line(figure, table, "block", str(tokens), i, y="identifiability")
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="identifiability", range=[0, 1.02])
    n = len(trace.axes["image"])
    return legend_below(
        finish(
            figure,
            "How the class emerges",
            f"{text(trace.settings['model'])}; {text(site)}, mean over {n} picture{'s' * (n != 1)}; 0.5 by chance",
            height=430,
        )
    )


def probe_norms(probes: Probes, site: str | None = None) -> go.Figure:
    """How large the probes' weights are: the mean over classes of their norm, by block and token."""
    chosen = probes.axes["site"][-1] if site is None else site
    if chosen not in probes.axes["site"]:
        raise InputError(f"these probes have the sites {', '.join(probes.axes['site'])}, not {site!r}")
    norms = probes.values[probes.axes["site"].index(chosen)].float().norm(dim=2).mean(dim=-1)
    figure = go.Figure(
        go.Heatmap(
            z=array(norms),
            x=[text(label) for label in probes.axes["token"]],
            y=[f"block {block}" for block in probes.axes["block"]],
            colorscale=SEQUENTIAL,
            colorbar=colorbar("norm"),
            hovertemplate="%{y}, %{x}: norm %{z:.3g}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="token", type="category")
    return finish(figure, f"Norms of the probes of {text(chosen)}", text(probes.settings["model"]), height=430)


FIGURES = {
    ClassLens: {"trajectory": lens_trajectory, "maps": class_maps, "mosaic": class_mosaic},
    ClassTrace: trace_curves,
    Probes: probe_norms,
}
