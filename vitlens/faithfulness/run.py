"""Evaluates heatmaps: does the model depend on the patches that a map calls important, more than on random ones?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked, require_whole
from vitlens.choose.classes import Classes, select_classes
from vitlens.choose.texts import takes_text
from vitlens.data.masks import MaskInput, Masks
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench, ClassOutcome, filled
from vitlens.faithfulness.maps import Maps, MapScorer, ScoredMap, read_maps
from vitlens.faithfulness.metrics import CURVES, FaithfulnessMetric, find_metrics
from vitlens.faithfulness.perturbation import NOTHING_ELSE
from vitlens.faithfulness.result import Faithfulness
from vitlens.heatmaps.shared.precision import careful, require_finite_logits
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures

DEFAULT_METRICS = ("deletion", "insertion", "negative", "positive")


@dataclass(frozen=True)
class MapScores:
    """Of one map for each picture: the metrics, and the outcomes of its curves by name."""

    values: Float[Tensor, "metric image"]
    outcomes: dict[str, ClassOutcome]


@leaves_state
@checked
@takes_text("predicted")
def evaluate_heatmaps(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    heatmaps: Maps = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    n_steps: int = 50,
    replacement: str = "blur",
    road_shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    masks: MaskInput | None = None,
    baselines: bool = True,
    n_draws: int = 3,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Faithfulness:
    """How faithful heatmaps are to the model, by the metrics of `faithfulness_metrics()`, compared with three baselines.

    A map orders the patches; of equally important ones the first in reading order counts as the first to go, in either
    direction. Only the order matters to the metrics that take patches away. A curve of n_steps costs about as many
    forwards for each picture and map; the ends of curves on pixels are shared by all maps. `batch_size` pictures are held
    at once, whatever the number of steps. All is computed in single precision at least, as heatmaps are.

    A map that is the same everywhere puts the patches in no order: its metrics are NaN, but for infidelity and patch_auroc,
    and its curves those of the reading order.

    Args:
        classes: one per picture, explained and followed: indices, names, or a tensor [image] of each
            picture's own; by default the predicted class.
        heatmaps: {name: map}, several maps, or one; a map is a `Heatmap`, importances [image, patch] or [image, row,
            column], or the name of a method. By default token_mask, gradient_rollout and attention_rollout.
        metrics: names, or "all".
        n_steps: equal steps of the curves of deletion, insertion and token removal.
        replacement: what replaces patches in deletion and insertion: "blur", the picture blurred (σ = 1/16 of its height);
            "mean", its mean colour; "zero", the training data's mean colour; "black", black pixels.
        road_shares: shares of patches that are imputed.
        masks: where the object is, one mask per picture as `select_tokens` takes them, for the metrics that need it.
        baselines: add the rows "random" (the mean over random maps), "centre_prior" and "raw_attention", if they are not
            among the maps.
        n_draws: random maps for each picture.
        options: {metric: {option: value}} for metrics that have options of their own.
        batch_size: pictures (rows) of one forward; by default at most 64, and what is free holds.
        progress: show bars; by default on a terminal.

    Returns:
        Faithfulness with axes method, metric, image.

    Raises:
        InputError: an unknown metric, replacement or method; a map of another shape or with NaN; no masks where they are
            needed; fewer than one step; a model without classifier; outputs without probabilities, which a
            curve could follow (see `HookedViT.set_output`); no pictures; logits that are not finite.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> scores = vitlens.evaluate_heatmaps(
        ...     model,
        ...     images[:4],
        ...     heatmaps=["gradient_rollout", "random_map"],
        ...     metrics=["deletion", "insertion"],
        ...     baselines=False,
        ...     n_steps=4,
        ... )
        >>> print(scores.summary()["deletion"]["mean"].round(1))
        method
        gradient_rollout    0.7
        random_map          0.8
        Name: mean, dtype: float64
    """
    model.require_classifier()
    chosen = find_metrics(metrics, masks is not None, model.architecture is not None)
    for metric in chosen:
        if metric.needs_probability:
            model.require_probability(f"the metric {metric.name}", NOTHING_ELSE)
    extra = _check_options(chosen, options or {})
    pictures = model.as_images(images)
    inside = None if masks is None else check_masks(model, pictures, masks)
    curve_names = [name for name in CURVES if any(name in metric.curves for metric in chosen)]
    with careful(model, pictures) as (able, copies):
        bench = bench_of(
            able,
            copies,
            classes,
            n_steps=n_steps,
            replacement=replacement,
            road_shares=road_shares,
            batch_size=batch_size,
        )
        maps = read_maps(bench, heatmaps, baselines=baselines, n_draws=n_draws, progress=progress)
        found = _scores(bench, chosen, curve_names, maps, inside, extra, progress)
        return Faithfulness(
            torch.stack([scores.values for scores in found.values()]),
            {"method": list(found), "metric": [metric.name for metric in chosen], "image": list(range(len(pictures)))},
            "score",
            curves=_stacked(found, len(pictures), "probability"),
            correct=_stacked(found, len(pictures), "accuracy"),
            shares=_padded([torch.tensor(CURVES[name].shares(bench), dtype=torch.float64) for name in curve_names]),
            curve_names=curve_names,
            classes=bench.classes[:, None],
            class_names=model.class_names,
            pixels=small_pictures(model, pictures),
            settings={
                "model": model.cfg.model_name,
                "classes": "predicted" if classes is None else "given",
                "n_steps": n_steps,
                "replacement": replacement,
                "road_shares": list(road_shares),
                "n_draws": n_draws,
            },
        )


def _scores(
    bench: Bench,
    chosen: list[FaithfulnessMetric],
    curve_names: list[str],
    maps: Mapping[str, list[ScoredMap]],
    masks: Masks | None,
    options: Mapping[str, Mapping[str, Any]],
    progress: bool | None,
) -> dict[str, MapScores]:
    scorers = {
        metric.name: metric.scorer(bench, masks, **options.get(metric.name, {}))
        for metric in chosen
        if metric.scorer is not None
    }
    n_parts = sum(map(len, maps.values())) * (len(curve_names) + len(scorers))
    found: dict[str, MapScores] = {}
    with ProgressBar(n_parts, "scores", "curve", progress, n_parts) as bar:
        for name, several in maps.items():
            found[name] = _mean([_score(bench, chosen, curve_names, scorers, one, bar) for one in several])
    return found


def bench_of(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    classes: Classes,
    *,
    n_steps: int = 50,
    replacement: str = "blur",
    road_shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    batch_size: int | None = None,
) -> Bench:
    """Checks the settings before any work is done."""
    size = rows_at_once(model, pictures, batch_size, gradients=False)
    require_whole(n_steps=n_steps)
    if n_steps < 1:
        raise InputError(f"a curve has at least one step, not {n_steps}")
    if not road_shares or not all(0 < share < 1 for share in road_shares):
        raise InputError(f"the shares to impute lie between 0 and 1, not {list(road_shares)}")
    filled(model, pictures[:1], replacement)
    with torch.no_grad():
        logits = torch.cat([model(part) for part in pictures.split(size)])
    require_finite_logits(model, logits)
    selection = select_classes(model, classes, len(pictures), lambda: logits)
    if selection.indices.shape[1] != 1:
        raise InputError(f"a curve follows one class per picture, not {selection.indices.shape[1]}: pass one for each")
    return Bench(
        model,
        pictures,
        selection.indices[:, 0],
        logits,
        n_steps,
        replacement,
        tuple(road_shares),
        size,
        rows_of_maps=batch_size,
    )


def _score(
    bench: Bench,
    chosen: list[FaithfulnessMetric],
    curve_names: list[str],
    scorers: Mapping[str, MapScorer],
    scored: ScoredMap,
    bar: ProgressBar,
) -> MapScores:
    outcomes: dict[str, ClassOutcome] = {}
    for name in curve_names:
        outcomes[name] = CURVES[name].run(bench, scored.importance)
        bar.update(1)
    values = []
    for metric in chosen:
        if metric.combine is not None:
            shares = CURVES[metric.curves[0]].shares(bench)
            followed = [outcomes[name].of(metric.quantity).double() for name in metric.curves]
            values.append(metric.combine(*followed, shares))
        else:
            values.append(scorers[metric.name](scored).double())
            bar.update(1)
    even = (scored.importance == scored.importance[:, :1]).all(dim=1)
    for metric, value in zip(chosen, values, strict=True):
        if metric.needs_order:
            value[even] = torch.nan
    return MapScores(torch.stack(values), outcomes)


def _mean(several: list[MapScores]) -> MapScores:
    """The mean over random maps."""
    outcomes = {}
    for name in several[0].outcomes:
        parts = zip(*(one.outcomes[name] for one in several), strict=True)
        outcomes[name] = ClassOutcome(*(torch.stack(part).mean(dim=0) for part in parts))
    return MapScores(torch.stack([one.values for one in several]).mean(dim=0), outcomes)


def _stacked(found: Mapping[str, MapScores], n_images: int, quantity: str) -> Float[Tensor, "method curve image step"]:
    return torch.stack(
        [_padded([outcome.of(quantity) for outcome in scores.outcomes.values()], n_images) for scores in found.values()]
    )


def _padded(rows: list[Tensor], *of_each: int) -> Tensor:
    """Rows [*of_each, step] stacked along a new first axis, shorter rows filled with NaN."""
    if not rows:
        return torch.empty(0, *of_each, 0)
    longest = max(row.shape[-1] for row in rows)
    return torch.stack([F.pad(row, (0, longest - row.shape[-1]), value=float("nan")) for row in rows])


def check_masks(model: HookedViT, pictures: Float[Tensor, "image channels height width"], masks: MaskInput) -> Masks:
    read = model.as_masks(masks)
    found, expected = [len(read), *read.size], [len(pictures), *pictures.shape[-2:]]
    if found != expected:
        raise InputError(f"masks have the shape {expected} of the pictures, not {found}")
    return read


def _check_options(
    chosen: list[FaithfulnessMetric], options: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Mapping[str, Any]]:
    able = [metric.name for metric in chosen if metric.scorer is not None]
    for name in options:
        if name not in able:
            raise InputError(f"of these metrics {', '.join(able) or 'none'} takes options, not {name!r}")
    return options
