"""The classifier of a model: its own linear layer, or class embeddings in its place."""

from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.parts.linear import effective_bias, plain_linear


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
