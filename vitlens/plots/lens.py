"""Figures of a class lens: how a class emerges over the blocks, at a token and over the picture."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import plotly.graph_objects as go
import torch
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
from vitlens.plots.shared.picture import GLAZE, map_tiles, signed_over_picture
from vitlens.plots.shared.places import site_in_words
from vitlens.plots.shared.series import SYMBOLS, label_ends, line
from vitlens.plots.shared.style import (
    COLOURS,
    SEQUENTIAL,
    array,
    colorbar,
    finish,
    in_percent,
    percent_ticks,
    symmetric,
    text,
)

#: Ticks of an axis of probabilities.
CHANCES = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
#: How the numbers of a lens are written on hover.
FORMATS = {"probability": ".4~g", "rank": ",", "logit": ".4~g"}
CLASS_DASHES = ("solid", "dot", "dash", "longdash", "dashdot", "longdashdot")


def predictions(
    values: Float[Tensor, "classes"], names: Sequence[str], model_name: str, k: int = 8, quantity: str = "probability"
) -> go.Figure:
    """The model's top classes and their probabilities; of outputs without probabilities their logits."""
    top = values.topk(min(k, len(values)))
    is_share = quantity == "probability"
    labels = [text(short_name(names[i])) for i in top.indices.tolist()]
    figure = go.Figure(
        go.Bar(
            x=array(top.values),
            y=labels,
            orientation="h",
            marker_color=COLOURS[0],
            text=[in_percent(value, 1) if is_share else f"{value:.3g}" for value in top.values.tolist()],
            textposition="outside",
            cliponaxis=False,
            hovertext=[text(names[i], 120) for i in top.indices.tolist()],
            hovertemplate="%{hovertext}<br>" + quantity + " %{x:.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title=quantity, **({"range": [0, 1.12], **percent_ticks()} if is_share else {}))
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
    """Probability and rank of the lens' classes block by block: a colour for each class, a dash for each token.

    Both axes spread what lies near their ends; the logit is told on hover. Outputs without probabilities have their logits
    in place of them, and those without ranks no second chart.

    Args:
        token: one or several, by their places among the lens' tokens.
    """
    tokens = [token] if isinstance(token, int) else list(token)
    # From 1, as a reader counts.
    known = {
        "probability": lens.probabilities,
        "rank": None if lens.ranks is None else lens.ranks + 1,
        "logit": lens.values,
    }
    told = {name: values for name, values in known.items() if values is not None}
    shown = [name for name in told if name != "logit"] or ["logit"]
    titles = [f"rank among {lens.n_classes:,} (1 is first)" if name == "rank" else name for name in shown]
    figure = make_subplots(1, len(shown), subplot_titles=titles, horizontal_spacing=0.08)
    hover = "<br>".join(f"{name} %{{customdata[{i}]:{FORMATS[name]}}}" for i, name in enumerate(told))
    blocks = np.asarray(lens.axes["block"])
    index = lens.site_index(site)
    places = [f"{lens.axes['token'][place]} token" for place in tokens]
    for (place, label), class_position in product(zip(tokens, places, strict=True), range(len(lens.axes["class"]))):
        name = text(short_name(lens.class_label(image, class_position)))
        name = name if len(tokens) == 1 else f"{name}, {label}"
        at = (index, slice(None), image, place, class_position)
        curves = {quantity: array(values[at]) for quantity, values in told.items()}
        for col, quantity in enumerate(shown, start=1):
            figure.add_trace(
                go.Scatter(
                    x=blocks,
                    y=_log_odds(curves[quantity]) if quantity == "probability" else curves[quantity],
                    customdata=np.stack(list(curves.values()), axis=-1),
                    name=name,
                    legendgroup=name,
                    showlegend=col == 1,
                    mode="lines+markers",
                    marker={"size": 6, "symbol": SYMBOLS[class_position % len(SYMBOLS)]},
                    line={
                        "color": COLOURS[class_position % len(COLOURS)],
                        "width": 3 if class_position == 0 else 2,
                        "dash": CLASS_DASHES[tokens.index(place) % len(CLASS_DASHES)],
                    },
                    hovertemplate=f"{name}<br>block %{{x}}: {hover}<extra></extra>",
                ),
                row=1,
                col=col,
            )
    figure.update_xaxes(title="block", dtick=1 if len(blocks) <= 8 else 2)
    if "probability" in shown:
        ticks_of = {"tickvals": _log_odds(np.array(CHANCES)), "ticktext": [f"{100 * share:g} %" for share in CHANCES]}
        figure.update_yaxes(**ticks_of, row=1, col=1)
    ends = None
    if "rank" in shown:
        ticks = [rank for rank in (1, 2, 5, 10, 100, 1000, 10_000) if rank <= lens.n_classes]
        ends = math.log10(lens.n_classes * 1.15), -0.06
        labels = [f"{rank:,}" for rank in ticks]
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=labels, range=list(ends), row=1, col=len(shown))
    where = f"the {places[0]}" if len(places) == 1 else f"{len(places)} tokens"
    n_curves = len(figure.data) // len(shown)
    longest = max(len(trace.name) for trace in figure.data)
    site = lens.axes["site"][index]
    finish(
        figure,
        f"How the class emerges in {where}",
        f"{text(lens.settings['model'])}; class lens: {site_in_words(site)} ({text(site)}) through "
        f"{lens.settings['norm']}, then the classifier",
        height=max(450, 160 + 24 * n_curves),
        margin={"l": 60, "r": min(290, 40 + 7 * longest), "t": 96, "b": 50},
    )
    return figure if ends is None else label_ends(figure, ends, f"x{len(shown)}", f"y{len(shown)}")


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Where probabilities stand on an axis that spreads both ends."""
    kept = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log10(kept / (1 - kept))


def class_maps(
    lens: ClassLens,
    image: int = 0,
    class_position: int | None = 0,
    quantity: str = "logit",
    site: str | None = None,
) -> go.Figure:
    """How much each patch by itself reads as one class, block by block, on the picture: a reading, and no location.

    What the class came from is what a heatmap shows that removal confirms: `vitlens.heatmap`, `vitlens.evaluate_heatmaps`.

    Args:
        class_position: None for all classes of the lens side by side, after its last block.
    """
    blocks, names = lens.axes["block"], [text(short_name(lens.class_label(image, i))) for i in _positions(lens)]
    if class_position is None:
        maps = torch.stack([lens.maps(quantity, site, image, position)[-1] for position in _positions(lens)])
        titles, read_as, one_scale = (
            names,
            f"{len(names)} classes after block {blocks[-1]}",
            "one scale for all classes",
        )
    else:
        maps = lens.maps(quantity, site, image, class_position)
        titles, read_as = [f"block {block}" for block in blocks], f"“{names[class_position]}”"
        one_scale = "one scale for all blocks"
    if quantity == "logit":
        colours = signed_over_picture(maps.cpu())
    else:
        colours = {"colorscale": GLAZE, "zmin": 0.0, "zmax": max(symmetric(maps.cpu()), 1e-12)}
    figure = map_tiles(
        maps,
        titles,
        lens.picture(image),
        f"{quantity} %{{z:.3f}}",
        quantity,
        **colours,
    )
    if quantity == "probability":
        figure.update_coloraxes(colorbar=percent_ticks(figure.layout.coloraxis.cmax))
    site = lens.axes["site"][lens.site_index(site)]
    return finish(
        figure,
        f"How much each patch by itself reads as {read_as}",
        f"{text(lens.settings['model'])}; class lens of every patch: {site_in_words(site)} ({text(site)}); "
        f"{one_scale}<br>a reading, not a location: removing the patches that read so need not cost the answer",
        margin={"l": 10, "r": 20, "t": 110, "b": 10},
    )


def _positions(lens: ClassLens) -> range:
    return range(len(lens.axes["class"]))


def token_classes(
    lens: ClassLens, block: int = -1, token: int = 0, image: int = 0, site: str | None = None
) -> go.Figure:
    """Figure 14: the classes that one token says most, with their logits."""
    at = (lens.site_index(site), block, image, token)
    names = [text(short_name(name)) for name in lens.top_names(block, token, image, site)]
    figure = go.Figure(
        go.Bar(
            x=array(lens.ranked().top_logits[at]), y=names, orientation="h", marker_color=COLOURS[0],
            hovertemplate="%{y}: logit %{x:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="logit")
    site = lens.axes["site"][at[0]]
    about = f"{text(lens.settings['model'])}; {site_in_words(site)} ({text(site)})"
    return finish(
        figure, f"What token {lens.axes['token'][token]} says after block {lens.axes['block'][block]}", about, height=360,
        margin={"l": 170, "r": 20, "t": 74, "b": 50},
    )  # fmt: skip


def trace_curves(trace: ClassTrace, site: str = "resid_post") -> go.Figure:
    """How well the class is read off the class token and the patches, block by block: the mean of 1 − rank / C.

    The first class has rank 0.
    """
    figure = go.Figure()
    for i, (tokens, table) in enumerate(identifiability(trace, site=site).groupby("tokens", sort=False)):
        line(figure, table, "block", str(tokens), i, y="identifiability")
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="identifiability", range=[0, 1.02])
    n = len(trace.axes["image"])
    finish(
        figure,
        "How the class emerges",
        f"{text(trace.settings['model'])}; {site_in_words(site)} ({text(site)}), mean over {n} picture{'s' * (n != 1)}; "
        "1: the class comes first, 0.5: as by chance",
        height=430,
        margin={"l": 60, "r": 120, "t": 74, "b": 50},
    )
    return label_ends(figure, (0.0, 1.02))


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
    about = f"{text(probes.settings['model'])}; probes of {site_in_words(chosen)} ({text(chosen)}), mean over classes"
    return finish(figure, "How large the probes' weights are", about, height=430)


FIGURES = {
    ClassLens: {"trajectory": lens_trajectory, "maps": class_maps, "mosaic": class_mosaic},
    ClassTrace: trace_curves,
    Probes: probe_norms,
}
