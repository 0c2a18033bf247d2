"""Layer normalisation with its two steps open: the scale that divides, and what comes out before the affine part."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.hook_points import expose, hook_point


class LayerNorm(nn.Module):
    """LN(x) = weight · (x − mean) / scale + bias, scale = √(variance + eps); adopts the parameters of timm's norm.

    One fused kernel computes it unless `hook_scale` or `hook_normalized` is watched.
    """

    def __init__(self, norm: nn.LayerNorm, token_axis: int = -2) -> None:
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps
        self.hook_scale = hook_point(token_axis)
        self.hook_normalized = hook_point(token_axis)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        if not (self.hook_scale.has_hooks() or self.hook_normalized.has_hooks()):
            return self.normalise(x)
        normalized = self.hook_normalized(self.centre(x) / expose(self.hook_scale, self.scale(x)))
        if self.weight is not None:
            normalized = normalized * self.weight
        return normalized if self.bias is None else normalized + self.bias

    def normalise(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """LN(x) by one kernel, past the hook points: for vectors that are not part of the forward pass."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    @staticmethod
    def centre(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """x − mean(x): the part of the norm that is linear whatever the statistics."""
        return x - x.mean(dim=-1, keepdim=True)

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """√(variance + eps): what divides; freezing it makes the norm linear."""
        return (x.var(dim=-1, keepdim=True, unbiased=False) + self.eps).sqrt()

    def pull_back(self, direction: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The direction u with ⟨direction, weight · centre(x)⟩ = ⟨u, x⟩ for every x."""
        return self.centre(direction if self.weight is None else direction * self.weight)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
