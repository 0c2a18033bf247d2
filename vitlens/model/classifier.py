"""The class space: the model's own classifier, or any embeddings that are put in its place."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.model.linear import effective_bias, plain_linear


class LinearPart(NamedTuple):
    """A classifier as a linear map of the pooled vector x: logit_c = factor ⟨directions_c, x⟩ + constant_c."""

    directions: Float[Tensor, "classes d"]
    factor: Float[Tensor, "batch"]
    constant: Float[Tensor, "batch classes"]


class ClassEmbeddings(nn.Module):
    """logit_c = scale ⟨w_c, f⟩ + b_c of features f = projection(x); with `normalise` of w/‖w‖ and f/‖f‖ (zero-shot).

    `weight` and `bias` show it as a linear map of x, but for ‖f‖.
    """

    def __init__(
        self,
        projection: nn.Linear | None,
        weight: Float[Tensor, "classes features"],
        bias: Float[Tensor, "classes"] | None,
        scale: float,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.normalise = normalise
        self.linear = plain_linear(scale * (F.normalize(weight, dim=-1) if normalise else weight), bias)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch classes"]:
        features = x if self.projection is None else self.projection(x)
        return self.linear(F.normalize(features, dim=-1) if self.normalise else features)

    def linear_part(self, x: Float[Tensor, "batch d"]) -> LinearPart:
        """The same as a linear map of x, ‖f‖ frozen at its value."""
        features = x if self.projection is None else self.projection(x)
        factor = features.norm(dim=-1).clamp(min=1e-12).reciprocal() if self.normalise else x.new_ones(len(x))
        constant = effective_bias(self.linear).expand(len(x), -1)
        if self.projection is not None and self.projection.bias is not None:
            constant = constant + factor[:, None] * (self.linear.weight @ self.projection.bias)
        return LinearPart(self.weight, factor, constant)

    @property
    def weight(self) -> Float[Tensor, "classes d"]:
        return self.linear.weight if self.projection is None else self.linear.weight @ self.projection.weight

    @property
    def bias(self) -> Float[Tensor, "classes"]:
        bias = effective_bias(self.linear)
        if self.projection is None or self.projection.bias is None or self.normalise:
            return bias
        return bias + self.linear.weight @ self.projection.bias


Classifier = nn.Linear | ClassEmbeddings


def linear_part(classifier: Classifier, x: Float[Tensor, "batch d"]) -> LinearPart:
    if isinstance(classifier, ClassEmbeddings):
        return classifier.linear_part(x)
    return LinearPart(classifier.weight, x.new_ones(len(x)), effective_bias(classifier).expand(len(x), -1))


def choose_projection(head: Classifier | None, n_features: int, d_model: int, space: str | None) -> nn.Linear | None:
    """The linear map that stands before new class embeddings of width `n_features`: the model's head, or none.

    Raises:
        InputError: the width fits neither the pooled vector nor the head's output, or both.
    """
    own = head.projection if isinstance(head, ClassEmbeddings) else head
    widths = {"features": d_model} | ({"output": len(own.weight)} if own is not None else {})
    if space is not None and space not in widths:
        raise InputError(
            f'space is "features" (what the classifier reads) or "output" (what the model\'s head returns)'
            f"{'' if own is not None else '; this model has no head'}, not {space!r} (with_class_embeddings also reads "
            'the "residual" stream)'
        )
    fitting = [name for name, width in widths.items() if width == n_features and space in (None, name)]
    if not fitting:
        known = " or ".join(f"{width} ({name})" for name, width in widths.items())
        raise InputError(f"class embeddings of width {n_features} do not fit this model, which has {known}")
    if len(fitting) > 1:
        raise InputError(
            f"class embeddings of width {n_features} fit what the classifier reads and what it returns: "
            'pass space="features" or space="output"'
        )
    return own if fitting == ["output"] else None


def check_embeddings(weight: Tensor, names: list[str] | None, bias: Tensor | None, model: str) -> None:
    """Raises InputError unless there is one row, name and bias for each class."""
    if weight.ndim != 2 or not len(weight) or not torch.is_floating_point(weight):
        raise InputError(f"class embeddings for {model} are floats [classes, features], not {list(weight.shape)}")
    if not weight.isfinite().all():
        raise InputError("the class embeddings contain NaN or infinite values")
    if names is not None and len(names) != len(weight):
        raise InputError(f"{len(names)} class names were given for {len(weight)} class embeddings")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise InputError(f"bias is one number per class, [{len(weight)}], not {list(bias.shape)}")
