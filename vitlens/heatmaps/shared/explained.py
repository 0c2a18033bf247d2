"""The number that a heatmap attributes to the patches (the option `metric`): logit, probability or a difference."""

from collections.abc import Callable

from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

#: From the logits [row, classes] and the class of each row, a number per row.
EXPLAINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "probability": lambda logits, classes: logits.softmax(dim=-1).gather(1, classes[:, None])[:, 0],
    "log_probability": lambda logits, classes: logits.log_softmax(dim=-1).gather(1, classes[:, None])[:, 0],
    "logit": lambda logits, classes: logits.gather(1, classes[:, None])[:, 0],
}


def check_metric(model: HookedViT, metric: str) -> None:
    """Raises InputError for an unknown metric, a model without classifier, a probability among less than two classes."""
    if metric not in EXPLAINED:
        raise InputError(f"metric is one of {', '.join(EXPLAINED)}, not {metric!r}")
    model.require_classifier()
    if metric != "logit":
        model.require_choice(f"a {metric.replace('_', ' ')}")
