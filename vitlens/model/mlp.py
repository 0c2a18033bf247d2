"""The two-layer perceptron of a block: pre → activation → post → out."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.attention import scaled_bias
from vitlens.model.hook_points import hook_point


class MLP(nn.Module):
    """Adopts timm's `Mlp` and the LayerScale that follows it; `W_out` and `b_out` include LayerScale."""

    def __init__(self, mlp: Any, gamma: nn.Parameter | None) -> None:
        super().__init__()
        self.fc1 = mlp.fc1
        self.act = mlp.act
        self.fc2 = mlp.fc2
        self.gamma = gamma
        self.hook_pre = hook_point()
        self.hook_post = hook_point()

    def forward(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        pre = self.hook_pre(self.fc1(x))
        out = self.fc2(self.hook_post(self.act(pre)))
        return out if self.gamma is None else out * self.gamma

    @property
    def W_in(self) -> Float[Tensor, "d d_mlp"]:
        return self.fc1.weight.T

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        return scaled_bias(self.fc1, None)

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d"]:
        weight = self.fc2.weight if self.gamma is None else self.fc2.weight * self.gamma[:, None]
        return weight.T

    @property
    def b_out(self) -> Float[Tensor, "d"]:
        return scaled_bias(self.fc2, self.gamma)
