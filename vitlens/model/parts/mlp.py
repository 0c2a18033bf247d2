"""The MLP of a block: pre → activation (times the linear part if it is gated) → post → out."""

from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import expose, hook_point
from vitlens.model.parts.linear import LinearMap, effective_bias, effective_weight
from vitlens.model.parts.norm import Norm


class MLP(nn.Module):
    """out = W_out · post + b_out, post = act(W_in · x + b_in); `W_out` and `b_out` include the LayerScale that follows.

    `ln` is a norm between activation and `hook_post` (then `hook_mid` stands before it): `hook_post` is always what
    multiplies `W_out`.
    """

    def __init__(
        self, fc1: LinearMap, act: nn.Module, fc2: LinearMap, gamma: nn.Parameter | None, ln: Norm | None = None
    ) -> None:
        super().__init__()
        self.fc1: LinearMap = fc1
        self.hook_pre = hook_point()
        self.act = act
        if ln is not None:
            self.hook_mid = hook_point()
        self.ln = ln
        self.hook_post = hook_point()
        self.fc2: LinearMap = fc2
        self.gamma = gamma

    def forward(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        return self._write(self.act(self.hook_pre(self.fc1(x))))

    def _write(self, hidden: Float[Tensor, "batch tokens d_mlp"]) -> Float[Tensor, "batch tokens d"]:
        if self.ln is not None:
            hidden = self.ln(expose(self.hook_mid, hidden))
        out = self.fc2(expose(self.hook_post, hidden))
        return out if self.gamma is None else out * self.gamma

    @property
    def W_in(self) -> Float[Tensor, "d d_mlp"]:
        return self.fc1.weight.T

    @property
    def b_in(self) -> Float[Tensor, "d_mlp"]:
        return effective_bias(self.fc1)

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d"]:
        return effective_weight(self.fc2, self.gamma).T

    @property
    def b_out(self) -> Float[Tensor, "d"]:
        return effective_bias(self.fc2, self.gamma)


class GatedMLP(MLP):
    """post = act(W_gate · x + b_gate) · (W_in · x + b_in), as in SwiGLU: `hook_pre` is the gate's side before the
    activation, `hook_pre_linear` the other factor. `ln_in` is a norm of its own before both."""

    def __init__(
        self,
        gate: LinearMap,
        fc1: LinearMap,
        act: nn.Module,
        fc2: LinearMap,
        gamma: nn.Parameter | None,
        ln: Norm | None = None,
        ln_in: Norm | None = None,
    ) -> None:
        super().__init__(fc1, act, fc2, gamma, ln)
        self.ln_in = ln_in
        self.gate: LinearMap = gate
        self.hook_pre_linear = hook_point()

    def forward(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        if self.ln_in is not None:
            x = self.ln_in(x)
        opening = self.act(self.hook_pre(self.gate(x)))
        return self._write(opening * self.hook_pre_linear(self.fc1(x)))

    @property
    def W_gate(self) -> Float[Tensor, "d d_mlp"]:
        return self.gate.weight.T

    @property
    def b_gate(self) -> Float[Tensor, "d_mlp"]:
        return effective_bias(self.gate)
