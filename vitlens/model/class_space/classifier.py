"""The classifier of a model: its own linear layer or layers, or class embeddings in their place."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlens.model.class_space.frozen_norms import FrozenNorms
from vitlens.model.class_space.layered import LINEAR, LayeredClassifier
from vitlens.model.parts.linear import effective_bias, plain_linear

#: What a model's own classifier is.
OwnClassifier = nn.Linear | LayeredClassifier


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
        projection: OwnClassifier | None,
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
        features = x if self.projection is None else plain_logits(self.projection, x)
        return self.linear(F.normalize(features, dim=-1) if self.normalise else features)

    def linear_part(self, x: Float[Tensor, "batch d"]) -> LinearPart:
        """The same as a linear map of x, ‖f‖ frozen at its value."""
        features = x if self.projection is None else plain_logits(self.projection, x)
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


Classifier = nn.Linear | ClassEmbeddings | LayeredClassifier


def plain_logits(classifier: Classifier, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch classes"]:
    """The logits of what the classifier reads, past all hook points."""
    return classifier.plain(x) if isinstance(classifier, LayeredClassifier) else classifier(x)


def n_outputs(classifier: Classifier) -> int:
    """The number of classes."""
    if isinstance(classifier, LayeredClassifier):
        return classifier.n_outputs
    return (classifier.linear if isinstance(classifier, ClassEmbeddings) else classifier).out_features


def kind_of(classifier: Classifier) -> str:
    """LINEAR, SCALED or NONLINEAR: of class embeddings, what stands before them."""
    if isinstance(classifier, ClassEmbeddings):
        return LINEAR if classifier.projection is None else kind_of(classifier.projection)
    return classifier.kind if isinstance(classifier, LayeredClassifier) else LINEAR


def all_classes_alike(classifier: Classifier) -> bool:
    """Whether the classifier gives all classes the same logit, whatever it reads."""
    if isinstance(classifier, LayeredClassifier):
        logits = classifier.plain(classifier.examples(4))
        return bool((logits == logits[:, :1]).all())
    last = classifier.linear if isinstance(classifier, ClassEmbeddings) else classifier
    bias = effective_bias(last)
    return bool((last.weight == last.weight[:1]).all()) and bool((bias == bias[:1]).all())


def linear_part(classifier: Classifier, x: Float[Tensor, "batch d"]) -> LinearPart:
    """The classifier as a linear map, where it is one but for the length of features."""
    if isinstance(classifier, ClassEmbeddings):
        return classifier.linear_part(x)
    constant = classifier.bias if isinstance(classifier, LayeredClassifier) else effective_bias(classifier)
    return LinearPart(classifier.weight, x.new_ones(len(x)), constant.expand(len(x), -1))


def frozen_rows(
    classifier: Classifier, x: Float[Tensor, "image d"], classes: Int[Tensor, "image class"]
) -> Float[Tensor, "image class d"]:
    """The gradient of each class's logit with respect to what the classifier reads, what divides in its norms frozen."""
    with torch.inference_mode(False), torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        with FrozenNorms():
            logits = plain_logits(classifier, at)
        columns = logits.gather(1, classes.clone()).unbind(dim=1)
        rows = [
            torch.autograd.grad(column.sum(), at, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for column in columns
        ]
    return torch.stack(rows, dim=1)
