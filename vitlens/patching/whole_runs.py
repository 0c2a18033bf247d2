"""The two runs without patches, which effects are measured against: the target run and the source run."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.classes import Classes
from vitlens.choose.metrics import ClassMetric, Measures, Metrics, choose_metrics, several
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import outside_inference
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.patching.results import Found, Intervention, name_of


@dataclass(frozen=True)
class WholeRuns:
    """The runs without intervention, and their metrics.

    `target` are the pictures that are patched into, `source` those that activations come from (the same for ablations),
    `shown` those that figures show. `found` holds the metrics [metric, image] of "target" and "source".
    """

    model: HookedViT
    target: Float[Tensor, "image channels height width"]
    source: Float[Tensor, "image channels height width"]
    shown: Float[Tensor, "image channels height width"]
    metric: Metrics
    measures: Measures
    found: dict[str, Float[Tensor, "metric image"]]
    settings: dict[str, Any]


def run_pair(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    classes: Classes,
    baseline_classes: Classes,
    metric: Metrics,
    direction: str,
) -> WholeRuns:
    """The runs on both sides of pairs of pictures.

    Raises:
        InputError: pairs of different shape, an unknown direction or metric, a metric that does not differ.
    """
    if direction not in ("denoise", "noise"):
        raise InputError(f'direction is "denoise" or "noise", not {direction!r}')
    model.require_classifier()
    # Estimates take gradients, and pictures that were made under inference_mode cannot have any.
    clean, corrupted = (outside_inference(images) for images in model.as_pair(clean, corrupted))
    clean_logits, corrupted_logits = logits_of(model, clean), logits_of(model, corrupted)
    metrics = choose_metrics(model, metric, clean_logits, corrupted_logits, classes, baseline_classes)
    runs = [(clean, clean_logits, "the clean pictures"), (corrupted, corrupted_logits, "the corrupted pictures")]
    source, target = runs if direction == "denoise" else runs[::-1]
    measures = Measures(metrics, target[1])
    of_source, of_target = measures(*source[1:]), measures(*target[1:])
    for name, gap in zip(metrics, of_source - of_target, strict=True):
        _check_gap(name, gap)
    found = {"target": of_target, "source": of_source}
    settings = {"model": model.cfg.model_name, "direction": direction} | _named_classes(model, measures)
    return WholeRuns(model, target[0], source[0], clean, metric, measures, found, settings)


def run_alone(
    model: HookedViT, images: Float[Tensor, "image channels height width"], classes: Classes, baseline_classes: Classes,
    metric: Metrics,
) -> WholeRuns:  # fmt: skip
    """The run that ablations are compared with.

    Raises:
        InputError: an unknown metric, or one that does not fit.
    """
    logits = logits_of(model, images)
    measures = Measures(choose_metrics(model, metric, logits, logits, classes, baseline_classes), logits)
    found = {"target": measures(logits, "the pictures as they are")}
    settings = {"model": model.cfg.model_name} | _named_classes(model, measures)
    return WholeRuns(model, images, images, images, metric, measures, found, settings)


def make_result(
    kind: type[Found],
    runs: WholeRuns,
    cells: dict[str, list],
    patched: Float[Tensor, "metric ... image"],
    *,
    quantity: str,
    settings: dict[str, Any],
    **fields: Any,
) -> Found:
    """Builds the result: its axes are metric, the axes of the cells, and image; its `values` are shift / gap."""
    axes: dict[str, list] = {"metric": list(runs.measures.metrics)} if several(runs.metric) else {}
    axes |= {**cells, "image": list(range(patched.shape[-1]))}
    per_metric = {"patched": patched, **runs.found}
    fields |= {name: value if several(runs.metric) else value[0] for name, value in per_metric.items()}
    classes, baseline = _classes_of(runs.measures)
    raw = kind(
        values=fields["patched"],
        axes=axes,
        quantity=quantity,
        settings=runs.settings | settings,
        metric_name=", ".join(runs.measures.metrics),
        grid=runs.model.embed.grid(*runs.target.shape[-2:]),
        pixels=small_pictures(runs.model, runs.shown),
        classes=classes,
        class_names=runs.model.class_names,
        baseline_classes=baseline,
        **fields,
    )
    return replace(raw, values=raw.shift() / raw.gap())


def known_values(
    resume: Intervention | None, runs: WholeRuns, cells: dict[str, list], settings: dict[str, Any]
) -> Float[Tensor, "metric ..."] | None:
    """The values that a partial result of the same sweep has already.

    Raises:
        InputError: it is the result of another sweep.
    """
    if resume is None:
        return None
    different = []
    mine = {name: labels for name, labels in resume.axes.items() if name not in ("metric", "image")}
    if mine != cells or resume.metric_name != ", ".join(runs.measures.metrics):
        different.append("axes")
    if resume.settings != runs.settings | settings:
        different.append("settings")
    told = {"target": "pictures or metrics", "source": "pictures to patch from"}
    different += [told[name] for name, found in runs.found.items() if not _agree(getattr(resume, name), found)]
    if different:
        raise InputError(f"the result to resume is of another sweep ({', '.join(different)} differ): leave resume= out")
    return resume.patched if "metric" in resume.axes else resume.patched[None]


def _agree(earlier: Tensor, now: Tensor) -> bool:
    return earlier.numel() == now.numel() and torch.allclose(
        earlier.flatten().to(now), now.flatten(), rtol=1e-4, atol=1e-5
    )


def _classes_of(measures: Measures) -> tuple[Int[Tensor, "image 1"] | None, Int[Tensor, "image 1"] | None]:
    """The classes that the metrics are about (the same for all of them), and those they are compared with."""
    named = [metric for metric in measures.metrics.values() if isinstance(metric, ClassMetric)]
    baselines = [metric.baseline for metric in named if metric.baseline is not None]
    return named[0].classes[:, None] if named else None, baselines[0][:, None] if baselines else None


def _named_classes(model: HookedViT, measures: Measures) -> dict[str, str]:
    """The classes that the metrics are about, as settings; nothing for the user's own functions."""
    found = dict(zip(("classes", "baseline_classes"), _classes_of(measures), strict=True))
    return {name: name_of(classes, model.class_names) for name, classes in found.items() if classes is not None}


def logits_of(
    model: HookedViT, pictures: Float[Tensor, "image channels height width"], batch_size: int = 32
) -> Float[Tensor, "image classes"]:
    """The logits of whole runs, in batches, so that memory does not grow with the number of pictures."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in pictures.split(batch_size)])


def _check_gap(name: str, gap: Float[Tensor, "image"]) -> None:
    """Raises InputError if the metric is the same on clean and corrupted pictures: effects are shares of the difference."""
    same = (gap == 0).nonzero()[:, 0].tolist()
    if len(same) == len(gap):
        raise InputError(
            f"the metric {name} is the same on the clean and the corrupted pictures, so there is no effect to trace"
        )
    if same:
        raise InputError(
            f"the metric {name} is the same on the clean and the corrupted picture of pair {same[0]}, so that pair has no "
            "effect to trace: leave it out"
        )
    if gap.mean() == 0:
        raise InputError(
            f"the differences of the metric {name} between clean and corrupted pictures cancel: pass pairs in one direction"
        )
