"""The number that a heatmap attributes to the patches (the option `metric`): logit, probability or its logarithm."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, log_probabilities, probabilities
from vitlens.model.hooked_vit import HookedViT

EXPLAINED = ("probability", "log_probability", "logit")
#: From the logits [row, classes] and the class of each row, a number per row.
Explained = Callable[[Tensor, Tensor], Tensor]


def default_explained(model: HookedViT) -> str:
    """The probability, or the logit where outputs have no probability."""
    return "probability" if model.cfg.output in WITH_PROBABILITIES else "logit"


def explained(model: HookedViT, metric: str | None) -> Explained:
    """The function of the logits that is called `metric`; None: the default.

    Raises:
        InputError: an unknown metric, a model without classifier, a probability of outputs that have none.
    """
    metric = default_explained(model) if metric is None else metric
    if metric not in EXPLAINED:
        raise InputError(f"metric is one of {', '.join(EXPLAINED)}, not {metric!r}")
    model.require_classifier()
    if metric != "logit":
        model.require_probability(f"a {metric.replace('_', ' ')}")
    return partial(_of_class, metric, model.cfg.output)


def _of_class(
    metric: str, output: str, logits: Float[Tensor, "row classes"], classes: Int[Tensor, "row"]
) -> Float[Tensor, "row"]:
    logit = logits.gather(1, classes[:, None])
    if metric == "logit":
        return logit[:, 0]
    return (probabilities if metric == "probability" else log_probabilities)(logits, output, logit)[:, 0]
