"""Figures of a direct logit attribution; each shows by how much its parts miss the logit."""

import plotly.graph_objects as go

from vitlens.attribution.direct import Attribution, PatchAttribution, TokenAttribution
from vitlens.attribution.means import AttributionMeans
from vitlens.data.class_names import short_name
from vitlens.plots.shared.picture import map_tiles, signed_over_picture
from vitlens.plots.shared.style import array, colorbar, diverging, finish, text

UNIT_NAMES = {
    "component": "component",
    "head": "head",
    "head_patch": "head and patch",
    "neuron": "neuron",
    "token": "token",
    "path": "path of two",
}
TILES = {"l": 10, "r": 20, "t": 104, "b": 10}


def attribution_waterfall(attribution: Attribution, image: int = 0, class_position: int = 0, k: int = 24) -> go.Figure:
    """Component by component from 0 to the logit; of finer units the k that weigh most, then the others."""
    logit = attribution.logits[image, class_position].item()
    labels, shares = _steps(attribution, image, class_position, k)
    figure = go.Figure(
        go.Waterfall(
            x=[*labels, "logit"],
            y=[*shares, 0.0],
            measure=["relative"] * len(labels) + ["total"],
            # What weighs little says so by its height.
            text=["" if abs(share) < 0.05 * abs(logit) else f"{share:+.2f}" for share in shares] + [f"{logit:.2f}"],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{x}: %{delta:+.3f}<br>sum so far %{final:.3f}<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"width": 1})
    figure.update_xaxes(tickangle=-60)
    figure.update_yaxes(title=attribution.quantity)
    unit = attribution.settings["unit"]
    return finish(
        figure,
        f"Who writes {_name(attribution, image, class_position)}: direct attribution by {UNIT_NAMES[unit]}",
        _exactness(attribution, image, class_position, logit),
        height=460,
        showlegend=False,
    )


def attribution_head_map(attribution: Attribution, image: int = 0, class_position: int = 0) -> go.Figure:
    """Every head's share of the logit: blocks across, heads down."""
    heads = attribution.head_map(image, class_position)
    logit = attribution.logits[image, class_position].item()
    rest = logit - heads.sum().item()
    figure = go.Figure(
        go.Heatmap(
            z=array(heads.T),
            x=[f"L{block}" for block in range(heads.shape[0])],
            y=[f"H{head}" for head in range(heads.shape[1])],
            **diverging(heads.cpu()),
            colorbar=colorbar(f"{attribution.quantity}<br>by head"),
            hovertemplate="%{x}%{y}: %{z:+.3f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title="block")
    figure.update_yaxes(title="head", autorange="reversed")
    return finish(
        figure,
        f"Which heads write {_name(attribution, image, class_position)}",
        f"heads {heads.sum().item():+.3f}, all else {rest:+.3f}; {_exactness(attribution, image, class_position, logit)}",
        height=190 + 30 * max(4, heads.shape[1]),
    )


def attribution_map(
    attribution: PatchAttribution | TokenAttribution, image: int = 0, class_position: int = 0
) -> go.Figure:
    """Every patch's share of the logit over the picture, all heads together."""
    shares = attribution.maps(image, class_position)
    how = "wrote through the heads" if isinstance(attribution, PatchAttribution) else "says when it is read"
    figure = map_tiles(
        shares[None],
        ["all patches"],
        attribution.picture(image),
        "%{z:+.3f}",
        f"{attribution.quantity}<br>by patch",
        **signed_over_picture(shares.cpu()),
    )
    return finish(
        figure,
        f"What each patch {how} for {_name(attribution, image, class_position)}",
        f"patches {shares.sum().item():+.3f}; "
        f"{_exactness(attribution, image, class_position, attribution.logits[image, class_position].item())}",
        height=430,
        margin=TILES,
    )


def attribution_patches(
    attribution: PatchAttribution, image: int = 0, class_position: int = 0, heads: int = 8
) -> go.Figure:
    """What patches wrote through the heads that carry most from them, over the picture; one colour scale for all.

    The number above a head is the sum of its patches' shares.
    """
    values = attribution.values[image, class_position]
    rows, columns = attribution.grid
    maps = values[..., values.shape[-1] - rows * columns :].unflatten(-1, (rows, columns))
    sums = maps.sum(dim=(2, 3)).flatten()
    order = sums.abs().argsort(descending=True, stable=True)[:heads].tolist()
    places = [divmod(place, values.shape[1]) for place in order]
    titles = [f"L{block}H{head} {sums[place]:+.2f}" for place, (block, head) in zip(order, places, strict=True)]
    chosen = maps.flatten(0, 1)[order].cpu()
    figure = map_tiles(
        chosen,
        titles,
        attribution.picture(image),
        "%{z:+.3f}",
        f"{attribution.quantity} by<br>head, patch",
        columns=min(4, len(titles)),
        **signed_over_picture(chosen),
    )
    return finish(
        figure,
        f"What patches write for {_name(attribution, image, class_position)}, through which heads",
        f"{len(places)} of {sums.numel()} heads, {sums[order].sum().item():+.3f} of {sums.sum().item():+.3f} from all; "
        f"{_exactness(attribution, image, class_position, attribution.logits[image, class_position].item())}",
        margin=TILES,
    )


def attribution_means_board(means: AttributionMeans, k: int = 30, specific: bool = True) -> go.Figure:
    """Which of the k components that tell classes apart most write for which classes, on the mean over pictures.

    `specific`: more than for a class on average; otherwise the mean shares themselves.
    """
    values = means.specific() if specific else means.values
    order = values.square().mean(dim=0).argsort(descending=True, stable=True)[:k]
    chosen = values[:, order]
    classes = [text(short_name(name), 28) for name in means.axes["class"]]
    figure = go.Figure(
        go.Heatmap(
            z=array(chosen),
            x=[means.axes["component"][i] for i in order.tolist()],
            y=list(range(len(classes))),
            text=[[name] * len(order) for name in classes],
            **diverging(chosen.cpu()),
            colorbar=colorbar(f"{means.quantity}<br>by class"),
            hovertemplate="%{x} for %{text}: %{z:+.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="component", tickangle=-60, type="category")
    shown = list(range(0, len(classes), max(1, len(classes) // 40)))
    figure.update_yaxes(autorange="reversed", tickvals=shown, ticktext=[classes[i] for i in shown])
    what = "more than they write for a class on average" if specific else "on average"
    return finish(
        figure,
        "Which parts write for which classes",
        f"{text(means.settings['model'])}; {int(means.n.sum()):,} pictures of {len(classes)} classes; "
        f"the {len(order)} components that differ most between classes, {what}",
        height=200 + 14 * max(12, min(60, len(classes))),
        margin={"l": 190, "r": 20, "t": 92, "b": 80},
    )


def _steps(attribution: Attribution, image: int, class_position: int, k: int) -> tuple[list[str], list[float]]:
    """The names and heights of a waterfall's steps."""
    if list(attribution.axes) == ["image", "class", "component"]:
        return attribution.axes["component"], array(attribution.values[image, class_position]).tolist()
    table = attribution.top(k, image, class_position)
    others = attribution.values[image, class_position].sum().item() - float(table["logit"].sum())
    rest = 0.0 if attribution.elsewhere is None else attribution.elsewhere[image, class_position].sum().item()
    return [*table["component"], "all others", "rest of the network"], [*table["logit"].tolist(), others, rest]


def _name(attribution: Attribution, image: int, class_position: int) -> str:
    """The class in quotation marks; of a difference, both classes."""
    name = f"“{text(short_name(attribution.class_label(image, class_position)))}”"
    others = attribution.baseline_names
    if others is None:
        return name
    return f"{name} rather than “{text(short_name(others[min(class_position, len(others) - 1)]))}”"


def _exactness(attribution: Attribution, image: int, class_position: int, logit: float) -> str:
    residual = attribution.residual[image, class_position].item()
    return (
        f"{text(attribution.settings['model'])}; {attribution.quantity} {logit:+.3f}, "
        f"sum − {attribution.quantity} = {residual:+.1e}; the last norm's statistics are kept as they are"
    )


def _by_unit(attribution: Attribution, image: int = 0, class_position: int = 0) -> go.Figure:
    """Blocks × heads where the units are heads, else a waterfall."""
    of_heads = attribution.settings["unit"] == "head"
    return (attribution_head_map if of_heads else attribution_waterfall)(attribution, image, class_position)


FIGURES = {
    Attribution: _by_unit,
    PatchAttribution: {
        "patches": attribution_patches,
        "map": attribution_map,
        "heads": attribution_head_map,
        "waterfall": attribution_waterfall,
    },
    TokenAttribution: {"waterfall": attribution_waterfall, "map": attribution_map},
    AttributionMeans: attribution_means_board,
}
