"""Normalisation with hook points at the scale that divides and at the result before the affine part."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import expose, hook_point


class Norm(nn.Module):
    """norm(x) = weight · centre(x) / scale(x) + bias; adopts the parameters of timm's norm.

    One kernel computes it unless `hook_scale` or `hook_normalized` is watched. Sub-classes say what centre and scale are.
    With its scale frozen a norm is a linear map: that is what makes attributions through it exact.
    """

    #: TransformerLens' name of the kind, as in `cfg.normalization_type`.
    kind: str
    #: Whether the norm forgets the mean of what it reads.
    centres = False

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float, token_axis: int = -2) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.eps = eps
        self.hook_scale = hook_point(token_axis)
        self.hook_normalized = hook_point(token_axis)

    @classmethod
    def adopt(cls, norm: Any, token_axis: int = -2) -> "Norm":
        return cls(norm.weight, getattr(norm, "bias", None), norm.eps, token_axis)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        if not (self.hook_scale.has_hooks() or self.hook_normalized.has_hooks()):
            return self.normalise(x)
        normalized = self.hook_normalized(self._divide(x))
        if self.weight is not None and self.bias is not None:
            return torch.addcmul(self.bias, normalized, self.weight)
        if self.weight is not None:
            return normalized * self.weight
        return normalized if self.bias is None else normalized + self.bias

    def _divide(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """centre(x) / scale(x), the scale through its hook point."""
        return self.centre(x) / expose(self.hook_scale, self.scale(x))

    def normalise(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """norm(x) past the hook points: for vectors that are not part of the forward pass."""
        raise NotImplementedError

    def centre(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The part of the norm that is linear whatever the statistics; its own transpose."""
        return x - x.mean(dim=-1, keepdim=True) if self.centres else x

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """What divides; freezing it makes the norm linear."""
        raise NotImplementedError

    def pull_back(self, direction: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The direction u with ⟨direction, weight · centre(x)⟩ = ⟨u, x⟩ for every x."""
        return self.centre(direction if self.weight is None else direction * self.weight)

    def linear_part(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """weight · centre(x): the norm but for its scale and its bias."""
        centred = self.centre(x)
        return centred if self.weight is None else centred * self.weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class LayerNorm(Norm):
    """centre(x) = x − mean(x), scale(x) = √(variance(x) + eps)."""

    kind = "LN"
    centres = True

    def _divide(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        if torch.is_grad_enabled():
            return super()._divide(x)
        # Without gradients one kernel gives both steps; an edited scale s' then only costs the factor s / s'.
        normalized, _, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, self.eps)
        if not self.hook_scale.has_hooks():
            return normalized
        scale = inverse.reciprocal()
        return normalized * (scale / expose(self.hook_scale, scale))

    def normalise(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        return (x.var(dim=-1, keepdim=True, unbiased=False) + self.eps).sqrt()


class RMSNorm(Norm):
    """centre(x) = x, scale(x) = √(mean(x²) + eps)."""

    kind = "RMS"

    def normalise(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        normalized = x * self._mean_square(x).rsqrt()
        return normalized if self.weight is None else normalized * self.weight

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        return self._mean_square(x).sqrt()

    def _mean_square(self, x: Tensor) -> Tensor:
        return x.pow(2).mean(dim=-1, keepdim=True) + self.eps


class RMSNormOverHeads(RMSNorm):
    """RMSNorm of all heads of a token together, which share one scale; its weight is [heads, d_head]."""

    def scale(self, x: Float[Tensor, "... heads d_head"]) -> Float[Tensor, "... 1 1"]:
        return self._mean_square(x).sqrt()

    def _mean_square(self, x: Tensor) -> Tensor:
        return x.pow(2).mean(dim=(-2, -1), keepdim=True) + self.eps


class SimpleNorm(RMSNorm):
    """centre(x) = x, scale(x) = √(unbiased variance(x) + eps): the mean is left in, but does not count as spread."""

    kind = "SimpleNorm"

    def _mean_square(self, x: Tensor) -> Tensor:
        return x.var(dim=-1, keepdim=True) + self.eps
