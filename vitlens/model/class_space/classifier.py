"""The class space: the model's own classifier, or any embeddings that are put in its place."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.errors import InputError
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


def read_embeddings(
    weight: Any, bias: Any, scale: Any, model: str, like: Tensor
) -> tuple[Float[Tensor, "classes features"], Float[Tensor, "classes"] | None, float]:
    """Class embeddings, bias and scale as `set_class_embeddings` takes them, in the dtype and on the device of `like`.

    Raises:
        InputError: what is not numbers, of another shape, not finite in this dtype; an embedding of zeros; a scale that is
            not positive.
    """
    if isinstance(weight, Tensor) and not (weight.is_floating_point() or weight.is_complex()):
        raise InputError(f"class embeddings for {model} are floats [classes, features], not {weight.dtype}")
    rows = _numbers(weight, "class embeddings", like)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.numel():
        raise InputError(f"class embeddings for {model} are floats [classes, features], not {list(rows.shape)}")
    for empty in (~rows.any(dim=1)).nonzero()[:1, 0].tolist():
        raise InputError(f"the embedding of class {empty} is all zeros, which points to no class: leave it out")
    shift = None if bias is None else _numbers(bias, "biases", like)
    if shift is not None and tuple(shift.shape) != (len(rows),):
        raise InputError(f"bias is one number per class, [{len(rows)}], not {list(shift.shape)}")
    factor = _numbers(scale, "values of scale", like)
    if factor.numel() != 1 or factor.item() <= 0:
        raise InputError(f"scale is a positive number (CLIP's exp(logit_scale)), not {scale!r}")
    if not (factor * rows).isfinite().all():
        raise InputError(f"the class embeddings times their scale overflow {like.dtype}")
    return rows, shift, float(scale)


def _numbers(given: Any, what: str, like: Tensor) -> Tensor:
    """Finite real numbers, where `like` is and in its dtype."""
    try:
        numbers = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} are numbers, not {type(given).__name__}") from None
    if numbers.is_complex() or numbers.dtype == torch.bool or numbers.layout != torch.strided or numbers.is_meta:
        kind = numbers.dtype if numbers.layout == torch.strided and not numbers.is_meta else numbers
        raise InputError(f"{what} are real numbers in a dense tensor, not {kind}")
    if not numbers.isfinite().all():
        raise InputError(f"{what} contain NaN or infinite values")
    numbers = numbers.to(like.device, like.dtype)
    if not numbers.isfinite().all():
        raise InputError(f"{what} overflow {like.dtype}, in which the model computes")
    return numbers
