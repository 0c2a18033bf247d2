"""The figure of one feature: where it is strongest, how it is distributed, and which classes it raises or lowers."""

from collections.abc import Callable

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.features.attribution import FeatureAttribution
from vitlens.features.evaluation.result import DictionaryEvaluation
from vitlens.features.top_examples import TopPatches
from vitlens.features.training.result import TrainingHistory
from vitlens.plots.dictionaries import training_curves
from vitlens.plots.judging import density_histogram, judged_dictionaries
from vitlens.plots.shared.picture import Pixels, picture_uri
from vitlens.plots.shared.places import hook_in_words
from vitlens.plots.shared.style import COLOURS, LOWERS, NEUTRAL, OUTLINE, RAISES, array, finish, in_percent, text

PixelsOf = Callable[[int], Pixels] | Float[Tensor, "picture height width 3"]


def feature_card(
    result: TopPatches,
    feature: int | None = None,
    *,
    pixels_of: PixelsOf | None = None,
    context: int = 2,
    n_classes: int = 5,
) -> go.Figure:
    """A feature's top patches, the strongest of each picture: as crops, beside them the whole picture; with the feature's
    activations and the classes that it promotes.

    Args:
        result: of `top_patches`.
        feature: which; by default the first that was looked for.
        pixels_of: the colours of a picture by its number, as `model.to_pixels` gives them: a function, or a tensor of all;
            by default those that the result keeps.
        context: how many patches are shown on each side of the one that is outlined.
        n_classes: how many of the classes that the feature raises most, and lowers most, are named.

    Raises:
        InputError: the feature is not in the result, or a picture is missing.
    """
    feature = result.axes["feature"][0] if feature is None else feature
    row = result.row_of(feature)
    ranks = [rank for rank in result.axes["rank"] if int(result.images[row, rank]) >= 0]
    found = _one_per_picture(result, row, ranks)
    columns = 4 if len(found) > 9 else max(1, min(3, len(found)))
    lines = max(2, -(-len(found) // columns))
    has_classes = result.promoted.shape[1] > 0
    figure = _layout(lines, columns, has_classes, [_crop_title(result, row, rank) for rank in found])
    for i, rank in enumerate(found):
        pixels = _pixels(result.picture if pixels_of is None else pixels_of, int(result.images[row, rank]))
        _add_crop(figure, pixels, result, feature, rank, context, (i // columns + 1, i % columns + 1))
    for i in range(len(found), lines * columns):
        figure.update_xaxes(visible=False, row=i // columns + 1, col=i % columns + 1)
        figure.update_yaxes(visible=False, row=i // columns + 1, col=i % columns + 1)
    upper = -(-lines // 2)
    _add_histogram(figure, result, row, (1, columns + 1))
    if has_classes:
        _add_classes(figure, result, row, n_classes, (upper + 1, columns + 1))
    settings = result.settings
    if len(found) == len(ranks):
        shown = f"; the {len(found)} strongest outlined" if found else "; never above 0 here"
    else:
        pictures = f"{len(found)} picture{'s' * (len(found) != 1)}"
        shown = f"; the {len(ranks)} strongest lie in {pictures}, of each the strongest is shown"
    return finish(
        figure,
        f"{settings.get('unit', 'feature').capitalize()} {feature} {hook_in_words(settings['hook'])}".rstrip(),
        f"{text(settings['model'])}, {text(settings['hook'])}, dictionary: {text(settings['dictionary'], 60)}<br>"
        f"on in {in_percent(float(result.density[row]), 2)} of {settings['tokens_seen']:,} tokens{shown}",
        height=150 + 190 * lines,
        showlegend=False,
        margin={"l": 20, "r": 30, "t": 130, "b": 50},
    )


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


def _one_per_picture(result: TopPatches, row: int, ranks: list[int]) -> list[int]:
    """The first rank of each picture: fifteen patches of one picture are one example."""
    firsts: dict[int, int] = {}
    for rank in ranks:
        firsts.setdefault(int(result.images[row, rank]), rank)
    return list(firsts.values())


def _layout(lines: int, columns: int, has_classes: bool, titles: list[str]) -> go.Figure:
    """Crops on the left; on the right the histogram over the upper half and the classes over the lower."""
    upper = -(-lines // 2) if has_classes else lines
    specs: list[list[dict | None]] = [[{} for _ in range(columns)] + [None] for _ in range(lines)]
    specs[0][columns] = {"rowspan": upper}
    if has_classes:
        specs[upper][columns] = {"rowspan": lines - upper}
    every: list[str] = []
    for line in range(lines):
        every += (titles[line * columns : (line + 1) * columns] + [""] * columns)[:columns]
        if line == 0:
            every.append("activations above 0")
        elif line == upper and has_classes:
            every.append("classes that it raises and lowers")
    figure = make_subplots(
        lines, columns + 1, specs=specs, subplot_titles=every, column_widths=[1.0] * columns + [1.9],
        horizontal_spacing=0.03, vertical_spacing=0.24 / lines,
    )  # fmt: skip
    for title in figure.layout.annotations:
        title.update(font={"size": 12})
    return figure


def _crop_title(result: TopPatches, row: int, rank: int) -> str:
    feature = result.axes["feature"][row]
    place = "" if result.patch(feature, rank) is not None else ", no patch"
    return f"{float(result.values[row, rank]):.3g} · picture {int(result.images[row, rank])}{place}"


def _pixels(pixels_of: PixelsOf, picture: int) -> Pixels:
    if not isinstance(pixels_of, Tensor):
        return pixels_of(picture)
    if picture >= len(pixels_of):
        raise InputError(
            f"picture {picture} is among the top patches, and pixels of {len(pixels_of)} pictures were given"
        )
    return pixels_of[picture]


def _add_crop(
    figure: go.Figure, pixels: Pixels, result: TopPatches, feature: int, rank: int, context: int, at: tuple[int, int]
) -> None:
    rows, columns = result.settings["grid"]
    patch = result.patch(feature, rank)
    # The window keeps its size at the picture's edge, so that all crops have one scale.
    top, left, high, wide = 0, 0, rows, columns
    if patch is not None:
        high, wide = min(2 * context + 1, rows), min(2 * context + 1, columns)
        top = min(max(patch[0] - context, 0), rows - high)
        left = min(max(patch[1] - context, 0), columns - wide)
    y, x = pixels.shape[0] / rows, pixels.shape[1] / columns
    crop = pixels[round(top * y) : round((top + high) * y), round(left * x) : round((left + wide) * x)]
    row, col = at
    hover = f"picture {int(result.images[result.row_of(feature), rank])}<br>patch (%{{y}}, %{{x}})<extra></extra>"
    blank = go.Heatmap(
        z=array(torch.zeros(high, wide)), x=list(range(left, left + wide)), y=list(range(top, top + high)),
        opacity=0, showscale=False, hovertemplate=hover,
    )  # fmt: skip
    figure.add_trace(blank, row=row, col=col)
    figure.add_layout_image(
        source=picture_uri(crop), x=left - 0.5, y=top - 0.5, sizex=wide, sizey=high, sizing="stretch", layer="below",
        name="crop", row=row, col=col, xref="x", yref="y",
    )  # fmt: skip
    right = left + wide - 0.5
    if patch is not None and (high, wide) != (rows, columns):
        right = _add_whole(figure, pixels, patch, (rows, columns), (top - 0.5, right + 0.1 * wide, high), at)
    hidden = {"showgrid": False, "zeroline": False, "showticklabels": False, "constrain": "domain"}
    figure.update_xaxes(range=[left - 0.5, right], row=row, col=col, **hidden)
    anchor = figure.get_subplot(row, col).xaxis.plotly_name.replace("xaxis", "x")
    figure.update_yaxes(range=[top + high - 0.5, top - 0.5], scaleanchor=anchor, row=row, col=col, **hidden)
    if patch is not None:
        figure.add_shape(
            type="rect", x0=patch[1] - 0.5, x1=patch[1] + 0.5, y0=patch[0] - 0.5, y1=patch[0] + 0.5,
            line={"color": OUTLINE, "width": 3}, name="crop", row=row, col=col,
        )  # fmt: skip


def _add_whole(
    figure: go.Figure,
    pixels: Pixels,
    patch: tuple[int, int],
    grid: tuple[int, int],
    place: tuple[float, float, int],
    at: tuple[int, int],
) -> float:
    """The whole picture as high as the crop beside it, the patch outlined; returns where it ends."""
    (rows, columns), (top, left, high), (row, col) = grid, place, at
    each = high / rows
    figure.add_layout_image(
        source=picture_uri(pixels, longest=160), x=left, y=top, sizex=columns * each, sizey=high, sizing="stretch",
        layer="below", name="whole", row=row, col=col, xref="x", yref="y",
    )  # fmt: skip
    y, x = top + patch[0] * each, left + patch[1] * each
    figure.add_shape(
        type="rect",
        x0=x,
        x1=x + each,
        y0=y,
        y1=y + each,
        line={"color": OUTLINE, "width": 1.5},
        name="whole",
        row=row,
        col=col,
    )
    return left + columns * each


def _add_histogram(figure: go.Figure, result: TopPatches, row: int, at: tuple[int, int]) -> None:
    counts, width = result.counts[row], float(result.bin_width[row])
    last = int(counts.nonzero().max()) + 1 if counts.any() else 1
    middles = [(i + 0.5) * width for i in range(last)]
    bars = go.Bar(
        x=middles, y=array(counts[:last]), width=width, marker={"color": COLOURS[0], "line": {"width": 0}},
        hovertemplate="about %{x:.3g}: %{y:,} tokens<extra></extra>",
    )  # fmt: skip
    figure.add_trace(bars, row=at[0], col=at[1])
    # From 0.7 on, so that a bar of a single token has a height.
    top = float(counts.max().clamp(min=10).double().log10()) + 0.1
    figure.update_yaxes(
        type="log", dtick=1, range=[-0.15, top], title={"text": "tokens", "standoff": 4}, side="right",
        row=at[0], col=at[1],
    )  # fmt: skip
    figure.update_xaxes(rangemode="tozero", row=at[0], col=at[1])


def _add_classes(figure: go.Figure, result: TopPatches, row: int, n: int, at: tuple[int, int]) -> None:
    promoted = result.promoted[row]
    order = promoted.argsort(descending=True).tolist()
    shown = order if len(order) <= 2 * n else order[:n] + order[-n:]
    names = [text(short_name(result.class_names[i]) if result.class_names else f"class {i}", 24) for i in shown]
    values = [float(promoted[i]) for i in shown]
    bars = go.Bar(
        x=values, y=list(range(len(shown))), orientation="h", customdata=names,
        marker={"color": [RAISES if value > 0 else LOWERS for value in values]},
        hovertemplate="%{customdata}: %{x:+.3g}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(bars, row=at[0], col=at[1])
    figure.update_yaxes(
        autorange="reversed", side="right", tickvals=list(range(len(shown))), ticktext=names,
        row=at[0], col=at[1],
    )  # fmt: skip
    figure.update_xaxes(zeroline=True, zerolinecolor=NEUTRAL, showticklabels=False, row=at[0], col=at[1])


FIGURES = {
    TopPatches: feature_card,
    FeatureAttribution: feature_bars,
    DictionaryEvaluation: {"measures": judged_dictionaries, "density": density_histogram},
    TrainingHistory: training_curves,
}
