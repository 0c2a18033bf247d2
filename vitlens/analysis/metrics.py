"""What a patching experiment measures on the logits: a number per picture."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.analysis.classes import Classes, select_classes
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

METRICS = ("logit_difference", "logit", "probability")
Metric = Callable[[Float[Tensor, "image classes"]], Tensor]


@dataclass(frozen=True)
class ClassMetric:
    """A metric about one class per picture (and one to compare with, for the logit difference)."""

    name: str
    classes: Int[Tensor, "image"]
    baseline: Int[Tensor, "image"] | None = None

    def __call__(self, logits: Float[Tensor, "image classes"]) -> Float[Tensor, "image"]:
        if self.name == "probability":
            logits = logits.softmax(dim=-1)
        value = _pick(logits, self.classes)
        return value if self.baseline is None else value - _pick(logits, self.baseline)


def _pick(logits: Float[Tensor, "image classes"], classes: Int[Tensor, "image"]) -> Float[Tensor, "image"]:
    return logits.gather(1, classes[:, None])[:, 0]


def class_metric(
    model: HookedViT,
    name: str,
    clean_logits: Float[Tensor, "image classes"],
    corrupted_logits: Float[Tensor, "image classes"],
    classes: Classes,
    baseline_classes: Classes,
) -> ClassMetric:
    """The named metric; by default about the class predicted on the clean picture, against that on the corrupted one.

    Raises:
        InputError: an unknown name; more than one class per picture; a difference of a class with itself.
    """
    if name not in METRICS:
        raise InputError(
            f'metric is "logit_difference", "logit", "probability" or a function of the logits, not {name!r}'
        )
    chosen = select_classes(model, classes, clean_logits).indices
    if name != "logit_difference":
        return ClassMetric(name, _one_each(chosen))
    if baseline_classes is None:
        baseline = corrupted_logits.argmax(dim=-1, keepdim=True)
        # Where the prediction does not change, the clean picture's runner-up is what the class competes with.
        runner_up = clean_logits.scatter(1, chosen, -torch.inf).argmax(dim=-1, keepdim=True)
        baseline = torch.where(baseline == chosen, runner_up, baseline)
    else:
        baseline = select_classes(model, baseline_classes, clean_logits).indices
    if (_one_each(baseline) == _one_each(chosen)).any():
        raise InputError("a class and its baseline class are the same, so their logit difference is always 0")
    return ClassMetric(name, _one_each(chosen), _one_each(baseline))


def _one_each(classes: Int[Tensor, "image class"]) -> Int[Tensor, "image"]:
    if classes.shape[1] != 1:
        raise InputError(f"a metric is about one class per picture, not {classes.shape[1]}")
    return classes[:, 0]
