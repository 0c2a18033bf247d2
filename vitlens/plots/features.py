"""The figure of one feature: where it is strongest, how it is distributed, and which classes it raises or lowers."""

from collections.abc import Callable
from functools import partial
from math import isnan

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.errors import InputError
from vitlens.features.attribution import FeatureAttribution
from vitlens.features.effects import FeatureEffects
from vitlens.features.evaluation.result import DictionaryEvaluation
from vitlens.features.top_examples import TopPatches
from vitlens.features.training.result import TrainingHistory
from vitlens.plots.dictionaries import density_histogram, judged_dictionaries, training_curves
from vitlens.plots.feature_answers import EFFECT_WORDS, bars_with_intervals, feature_bars, feature_effect_bars
from vitlens.plots.shared.picture import Pixels, picture_uri
from vitlens.plots.shared.places import hook_in_words
from vitlens.plots.shared.style import (
    COLOURS,
    LOWERS,
    NEUTRAL,
    OUTLINE,
    RAISES,
    array,
    finish,
    in_percent,
    say_none,
    text,
)
from vitlens.results.result import Result

PixelsOf = Callable[[int], Pixels] | Float[Tensor, "picture height width 3"]


def feature_card(
    result: TopPatches,
    feature: int | None = None,
    *,
    evaluation: DictionaryEvaluation | None = None,
    effects: FeatureEffects | None = None,
    pixels_of: PixelsOf | None = None,
    context: int = 2,
    n_classes: int = 5,
) -> go.Figure:
    """A feature's top patches, the strongest of each picture: as crops, beside them the whole picture; with the feature's
    activations, the classes that it promotes, and what its removal does to the answers.

    Args:
        result: of `top_patches`.
        feature: which; by default the first that was looked for.
        evaluation: of `evaluate_sae` on the same dictionary, whose scores of the feature are named.
        effects: of `feature_effects` on the same dictionary, with the classes that are drawn.
        pixels_of: the colours of a picture by its number, as `model.to_pixels` gives them: a function, or a tensor of all;
            by default those that the result keeps.
        context: how many patches are shown on each side of the one that is outlined.
        n_classes: how many of the classes that the feature raises most, and lowers most, are named.

    Raises:
        InputError: the feature is not in a result, a picture is missing, or the results are of different dictionaries.
    """
    feature = result.axes["feature"][0] if feature is None else feature
    row = result.row_of(feature)
    for other in (evaluation, effects):
        _check_same(result, other)
    ranks = [rank for rank in result.axes["rank"] if int(result.images[row, rank]) >= 0]
    found = _one_per_picture(result, row, ranks)
    draw_panels = {"activations above 0": partial(_add_histogram, result=result, row=row)}
    if result.promoted.shape[1]:
        draw_panels["classes that its direction raises and lowers"] = partial(
            _add_classes, values=result.promoted[row], names=result.class_names, n=n_classes
        )
    if effects is not None:
        draw_panels["change of logits when it is removed"] = partial(
            _add_effects, effects=effects, feature=feature, n=n_classes
        )
    columns = 4 if len(found) > 9 else max(1, min(3, len(found)))
    lines = max(2, len(draw_panels), -(-len(found) // columns))
    figure, places = _layout(lines, columns, list(draw_panels), [_crop_title(result, row, rank) for rank in found])
    for i, rank in enumerate(found):
        pixels = _pixels(result.picture if pixels_of is None else pixels_of, int(result.images[row, rank]))
        _add_crop(figure, pixels, result, feature, rank, context, (i // columns + 1, i % columns + 1))
    for i in range(len(found), lines * columns):
        figure.update_xaxes(visible=False, row=i // columns + 1, col=i % columns + 1)
        figure.update_yaxes(visible=False, row=i // columns + 1, col=i % columns + 1)
    for place, draw in zip(places, draw_panels.values(), strict=True):
        draw(figure, at=place)
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
        f"on in {in_percent(float(result.density[row]), 2)} of {settings['tokens_seen']:,} tokens{shown}"
        + _scores(evaluation, feature),
        height=170 + 190 * lines,
        showlegend=False,
        margin={"l": 20, "r": 30, "t": 130 if evaluation is None else 148, "b": 50},
    )


def _check_same(result: TopPatches, other: Result | None) -> None:
    """Raises InputError where the other result is of another dictionary."""
    if other is None:
        return
    for name in ("model", "hook", "dictionary"):
        if other.settings[name] != result.settings[name]:
            raise InputError(
                f"the top patches are of the {name} {result.settings[name]}, and the {type(other).__name__} is of "
                f"{other.settings[name]}: both must be of one dictionary"
            )


def _scores(evaluation: DictionaryEvaluation | None, feature: int) -> str:
    """A line of the scores that an evaluation has of this feature."""
    if evaluation is None:
        return ""
    told = []
    for words, scores in (
        ("locality (Moran’s I)", evaluation.locality),
        ("monosemanticity", evaluation.monosemanticity),
    ):
        if scores is not None:
            value = float(scores[feature])
            told.append(f"{words}: " + ("not defined" if isnan(value) else f"{value:.2f}"))
    return f"<br>{', '.join(told)}" if told else ""


def _one_per_picture(result: TopPatches, row: int, ranks: list[int]) -> list[int]:
    """The first rank of each picture: fifteen patches of one picture are one example."""
    firsts: dict[int, int] = {}
    for rank in ranks:
        firsts.setdefault(int(result.images[row, rank]), rank)
    return list(firsts.values())


def _layout(lines: int, columns: int, panels: list[str], titles: list[str]) -> tuple[go.Figure, list[tuple[int, int]]]:
    """Crops on the left; on the right one panel below the other, with the places of these."""
    begins = [lines * i // len(panels) for i in range(len(panels) + 1)]
    specs: list[list[dict | None]] = [[{} for _ in range(columns)] + [None] for _ in range(lines)]
    every: list[str] = []
    for line in range(lines):
        every += (titles[line * columns : (line + 1) * columns] + [""] * columns)[:columns]
        if line in begins[:-1]:
            panel = begins.index(line)
            specs[line][columns] = {"rowspan": begins[panel + 1] - line}
            every.append(panels[panel])
    figure = make_subplots(
        lines, columns + 1, specs=specs, subplot_titles=every, column_widths=[1.0] * columns + [1.9],
        horizontal_spacing=0.03, vertical_spacing=0.24 / lines,
    )  # fmt: skip
    for title in figure.layout.annotations:
        title.update(font={"size": 12})
    return figure, [(begin + 1, columns + 1) for begin in begins[:-1]]


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


def _add_histogram(figure: go.Figure, *, result: TopPatches, row: int, at: tuple[int, int]) -> None:
    counts, width = result.counts[row], float(result.bin_width[row])
    if not counts.any():
        figure.update_xaxes(visible=False, row=at[0], col=at[1])
        figure.update_yaxes(visible=False, row=at[0], col=at[1])
        say_none(figure, "never on in these pictures", *at)
        return
    last = int(counts.nonzero().max()) + 1
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


def _add_classes(
    figure: go.Figure, *, values: Float[Tensor, "classes"], names: list[str] | None, n: int, at: tuple[int, int]
) -> None:
    order = values.argsort(descending=True).tolist()
    shown = order if len(order) <= 2 * n else order[:n] + order[-n:]
    labels = [_class_name(names, i) for i in shown]
    heights = [float(values[i]) for i in shown]
    bars = go.Bar(
        x=heights, y=list(range(len(shown))), orientation="h", customdata=labels,
        marker={"color": [RAISES if value > 0 else LOWERS for value in heights]},
        hovertemplate="%{customdata}: %{x:+.3g}<extra></extra>",
    )  # fmt: skip
    figure.add_trace(bars, row=at[0], col=at[1])
    _name_bars(figure, labels, at)
    figure.update_xaxes(showticklabels=False, row=at[0], col=at[1])


def _add_effects(figure: go.Figure, *, effects: FeatureEffects, feature: int, n: int, at: tuple[int, int]) -> None:
    if feature not in effects.axes["feature"]:
        raise InputError(f"the effects are not of feature {feature}: pass it in features= of feature_effects")
    table = effects.means()
    table = table[table["feature"] == feature]
    if not int(table["images"].iloc[0]):
        say_none(figure, "never on in these pictures", *at)
        return
    order = table["change"].abs().sort_values(ascending=False).index[: 2 * n]
    table = table.loc[order].sort_values("change", ascending=False)
    labels = [text(short_name(EFFECT_WORDS.get(label, label)), 24) for label in table["class"]]
    figure.add_trace(bars_with_intervals(table, labels), row=at[0], col=at[1])
    _name_bars(figure, labels, at)


def _class_name(names: list[str] | None, index: int) -> str:
    return text(short_name(names[index]) if names else f"class {index}", 24)


def _name_bars(figure: go.Figure, labels: list[str], at: tuple[int, int]) -> None:
    """Bars from top to bottom with their names on the right, and a line at 0."""
    figure.update_yaxes(
        autorange="reversed", side="right", tickvals=list(range(len(labels))), ticktext=labels,
        row=at[0], col=at[1],
    )  # fmt: skip
    figure.update_xaxes(zeroline=True, zerolinecolor=NEUTRAL, row=at[0], col=at[1])


FIGURES = {
    TopPatches: feature_card,
    FeatureAttribution: feature_bars,
    FeatureEffects: feature_effect_bars,
    DictionaryEvaluation: {"measures": judged_dictionaries, "density": density_histogram},
    TrainingHistory: training_curves,
}
