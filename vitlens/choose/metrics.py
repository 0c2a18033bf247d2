"""The metrics of patching: a number for each picture, computed from its logits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, select_classes
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import probabilities
from vitlens.model.class_space.requirements import USE_LOGITS, require_differences
from vitlens.model.hooked_vit import HookedViT

LOGIT_METRICS = ("logit_difference", "logit", "probability")
Metric = Callable[[Float[Tensor, "image classes"]], Tensor]
Metrics = str | Metric | Sequence[str] | Mapping[str, str | Metric]


@dataclass(frozen=True)
class ClassMetric:
    """A metric about one class per picture (and one to compare with, for the logit difference)."""

    name: str
    classes: Int[Tensor, "image"]
    baseline: Int[Tensor, "image"] | None = None
    #: What the model's outputs mean, for a probability.
    output: str = "softmax"

    def __call__(self, logits: Float[Tensor, "image classes"]) -> Float[Tensor, "image"]:
        value = _pick(logits, self.classes)
        if self.name == "probability":
            return probabilities(logits, self.output, value[:, None])[:, 0]
        return value if self.baseline is None else value - _pick(logits, self.baseline)

    def at(self, images: slice) -> "ClassMetric":
        """The same about some of the pictures."""
        baseline = None if self.baseline is None else self.baseline[images]
        return ClassMetric(self.name, self.classes[images], baseline, self.output)


def _pick(logits: Float[Tensor, "image classes"], classes: Int[Tensor, "image"]) -> Float[Tensor, "image"]:
    return logits.gather(1, classes[:, None])[:, 0]


@checked
def class_metric(
    model: HookedViT,
    clean_logits: Float[Tensor, "image classes"],
    corrupted_logits: Float[Tensor, "image classes"],
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    metric: str = "logit_difference",
) -> ClassMetric:
    """The named metric; by default about the class predicted on the clean picture, against that on the corrupted one.

    Raises:
        InputError: an unknown name; more than one class per picture; a difference of a class with itself, or of the single
            output of a model; a probability of outputs that have none, or a predicted class to compare with.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> clean, corrupted = model(images[:1]), model(images[1:2])
        >>> metric = vitlens.choose.class_metric(model, clean, corrupted, "T-shirt", baseline_classes="shirt")
        >>> [round(metric(logits).item(), 1) for logits in (clean, corrupted)]
        [4.0, 2.3]
    """
    if metric not in LOGIT_METRICS:
        raise InputError(
            f'metric is "logit_difference", "logit", "probability" or a function of the logits, not {metric!r}'
        )
    if metric == "probability":
        model.require_probability()
    if metric == "logit_difference":
        _require_two(model, baseline_classes)
    chosen = select_classes(model, classes, len(clean_logits), lambda: clean_logits).indices
    if metric != "logit_difference":
        return ClassMetric(metric, _one_each(chosen), output=model.cfg.output)
    if baseline_classes is None:
        baseline = corrupted_logits.argmax(dim=-1, keepdim=True)
        # Where the prediction does not change, the clean picture's runner-up is what the class competes with.
        runner_up = clean_logits.scatter(1, chosen, -torch.inf).argmax(dim=-1, keepdim=True)
        baseline = torch.where(baseline == chosen, runner_up, baseline)
    else:
        baseline = select_classes(model, baseline_classes, len(clean_logits), lambda: clean_logits).indices
    if (_one_each(baseline) == _one_each(chosen)).any():
        raise InputError("a class and its baseline class are the same, so their logit difference is always 0")
    return ClassMetric(metric, _one_each(chosen), _one_each(baseline))


def _require_two(model: HookedViT, baseline_classes: Classes) -> None:
    """Raises InputError unless there are two outputs whose logits differ, and the one to compare with is known."""
    if baseline_classes is None:
        model.require_prediction()
    if model.cfg.n_classes == 1:
        instead = USE_LOGITS if model.text_tower is None else f"{USE_LOGITS}, or compare with baseline_text="
        raise InputError(
            f"{model.cfg.model_name} has a single output, so there is no other to take a logit difference with: {instead}"
        )
    require_differences(model, "a logit difference")


def _one_each(classes: Int[Tensor, "image class"]) -> Int[Tensor, "image"]:
    if classes.shape[1] != 1:
        raise InputError(f"a metric is about one class per picture, not {classes.shape[1]}")
    return classes[:, 0]


def choose_metrics(
    model: HookedViT,
    metric: Metrics,
    clean_logits: Float[Tensor, "image classes"],
    other_logits: Float[Tensor, "image classes"],
    classes: Classes,
    baseline_classes: Classes,
) -> dict[str, Metric]:
    """One metric or several, named or functions, by name.

    Raises:
        InputError: as `class_metric`; no metric at all.
    """
    wanted: Mapping[str, str | Metric]
    if isinstance(metric, Mapping):
        wanted = metric
    elif isinstance(metric, str):
        wanted = {metric: metric}
    elif isinstance(metric, Sequence):
        wanted = {str(name): name for name in metric}
    else:
        wanted = {getattr(metric, "__name__", "custom metric"): metric}
    if not wanted:
        raise InputError(f"there is no metric to measure: name at least one of {', '.join(LOGIT_METRICS)}")
    _check_baseline_is_used(list(wanted.values()), baseline_classes)
    return {
        name: class_metric(model, clean_logits, other_logits, classes, metric=one, baseline_classes=baseline_classes)
        if isinstance(one, str)
        else one
        for name, one in wanted.items()
    }


def _check_baseline_is_used(metrics: Sequence[str | Metric], baseline_classes: Classes) -> None:
    """Raises InputError for baseline classes that no metric compares with: they would be ignored silently."""
    if baseline_classes is not None and "logit_difference" not in metrics:
        raise InputError(
            'baseline_classes= are what metric="logit_difference" compares with, and no other metric has any: leave them '
            "out, or ask for that metric"
        )


def several(metric: Metrics) -> bool:
    """Whether metrics are an axis of the result."""
    return not isinstance(metric, str) and isinstance(metric, (Sequence, Mapping))


@dataclass(frozen=True)
class Measures:
    """Metrics by name, and the logits of the run without interventions, for all pictures.

    A function of the user's may hold a label for every picture, so it is always shown them all: where only some were run,
    the others stand there as they are without the intervention, and their values are not used.
    """

    metrics: Mapping[str, Metric]
    untouched: Float[Tensor, "image classes"]

    @property
    def need_all_at_once(self) -> bool:
        """Whether a metric is one number for all pictures, which cannot be put together from parts."""
        functions = [metric for metric in self.metrics.values() if not isinstance(metric, ClassMetric)]
        return any(_as_tensor("given", metric(self.untouched)).ndim == 0 for metric in functions)

    def __call__(
        self, logits: Float[Tensor, "some classes"], where: str, images: slice = slice(None)
    ) -> Float[Tensor, "metric some"]:
        """The metrics of the runs on some pictures.

        Raises:
            InputError: a metric returns another shape, NaN or an infinite value; the sentence says for which run.
        """
        values = []
        for name, metric in self.metrics.items():
            if isinstance(metric, ClassMetric):
                value = metric.at(images)(logits)
            else:
                value = self._of_all(name, metric, logits, where, images)[images]
            if not value.isfinite().all():
                what = "NaN" if value.isnan().any() else "an infinite value"
                raise InputError(f"the metric {name} returned {what} for {where}")
            values.append(value)
        return torch.stack(values)

    def _of_all(self, name: str, metric: Metric, logits: Tensor, where: str, images: slice) -> Float[Tensor, "image"]:
        n_images = len(self.untouched)
        if len(logits) < n_images:
            filled = self.untouched.clone()
            filled[images] = logits
            logits = filled
        value = _as_tensor(name, metric(logits)).to(logits.device, logits.dtype)
        if value.ndim == 0:
            value = value.expand(n_images)
        if tuple(value.shape) != (n_images,):
            raise InputError(
                f"the metric {name} returned {list(value.shape)} for logits {list(logits.shape)} ({where}): "
                "it must return one number, or one per picture"
            )
        return value


def _as_tensor(name: str, value: object) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"the metric {name} returned {type(value).__name__}: it must return one number, or one per picture"
        ) from None
