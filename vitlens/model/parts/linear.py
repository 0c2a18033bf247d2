"""Linear maps that share parts of timm's packed weights, so that every layout looks like plain linear layers."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.parts.norm import Norm


class LinearSlice(nn.Module):
    """Some of the rows (outputs) or columns (inputs) of a linear map, read off its weight at every use.

    `own_bias` replaces the map's bias; with columns, only one of the slices may carry the bias.
    """

    def __init__(
        self,
        linear: nn.Linear,
        rows: slice = slice(None),
        columns: slice = slice(None),
        own_bias: Tensor | None = None,
        with_bias: bool = True,
    ) -> None:
        super().__init__()
        self.linear = linear
        self.rows = rows
        self.columns = columns
        self.own_bias = own_bias
        self.with_bias = with_bias

    @property
    def weight(self) -> Float[Tensor, "out d"]:
        return self.linear.weight[self.rows, self.columns]

    @property
    def bias(self) -> Float[Tensor, "out"] | None:
        if self.own_bias is not None:
            return self.own_bias
        if self.linear.bias is None or not self.with_bias:
            return None
        return self.linear.bias[self.rows]

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... out"]:
        return F.linear(x, self.weight, self.bias)


class ParallelIn(nn.Module):
    """Several linear maps side by side, each after its own affine part of one norm: y = [A_b (w_b · x̂ + c_b) + a_b]_b.

    x̂ is the normalised input that they share, so the affine parts belong to the weight and bias shown here.
    """

    def __init__(self, norms: list[Norm], maps: list["LinearMap"]) -> None:
        super().__init__()
        self.norm_weights = nn.ParameterList([norm.weight for norm in norms])
        self.norm_biases = nn.ParameterList([norm.bias for norm in norms if norm.bias is not None])
        self.maps: Any = nn.ModuleList(maps)

    @property
    def weight(self) -> Float[Tensor, "out d"]:
        return torch.cat([linear.weight * scale for linear, scale in zip(self.maps, self.norm_weights, strict=True)])

    @property
    def bias(self) -> Float[Tensor, "out"]:
        biases = [linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
                  for linear in self.maps]  # fmt: skip
        if len(self.norm_biases):
            biases = [
                bias + linear.weight @ shift
                for bias, linear, shift in zip(biases, self.maps, self.norm_biases, strict=True)
            ]
        return torch.cat(biases)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... out"]:
        return F.linear(x, self.weight, self.bias)


class ParallelOut(nn.Module):
    """Several linear maps of the parts of a vector, each with its LayerScale, summed: y = Σ_b γ_b (A_b x_b + a_b)."""

    def __init__(self, maps: list["LinearMap"], gammas: list[Tensor | None]) -> None:
        super().__init__()
        self.maps: Any = nn.ModuleList(maps)
        self.gammas = nn.ParameterList([gamma for gamma in gammas if gamma is not None])

    def _scaled(self, tensors: list[Tensor]) -> list[Tensor]:
        if not len(self.gammas):
            return tensors
        return [
            (tensor.mT * gamma).mT if tensor.ndim == 2 else tensor * gamma
            for tensor, gamma in zip(tensors, self.gammas, strict=True)
        ]

    @property
    def weight(self) -> Float[Tensor, "out d"]:
        return torch.cat(self._scaled([linear.weight for linear in self.maps]), dim=1)

    @property
    def bias(self) -> Float[Tensor, "out"] | None:
        if self.maps[0].bias is None:
            return None
        return torch.stack(self._scaled([linear.bias for linear in self.maps])).sum(dim=0)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... out"]:
        return F.linear(x, self.weight, self.bias)


# What shows a weight, a bias, and computes y = weight x + bias.
LinearMap = nn.Linear | LinearSlice | ParallelIn | ParallelOut


def effective_weight(linear: LinearMap, gamma: Tensor | None) -> Float[Tensor, "out d"]:
    """The weight with the LayerScale that follows it."""
    return linear.weight if gamma is None else linear.weight * gamma[:, None]


def effective_bias(linear: LinearMap, gamma: Tensor | None = None) -> Float[Tensor, "out"]:
    """The bias that a linear map adds, its LayerScale included; zeros where it has none."""
    if linear.bias is None:
        return linear.weight.new_zeros(len(linear.weight))
    return linear.bias if gamma is None else linear.bias * gamma


def plain_linear(weight: Float[Tensor, "out d"], bias: Float[Tensor, "out"] | None) -> nn.Linear:
    """An `nn.Linear` with these values as parameters of its own."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear
