"""The activation functions of dictionaries, as SAELens and Overcomplete train them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.errors import InputError

Pre = Float[Tensor, "*batch feature"]


class Relu(nn.Module):
    """f = max(h, 0)."""

    def forward(self, pre: Pre) -> Pre:
        return pre.relu()


class TanhRelu(nn.Module):
    """f = tanh(max(h, 0)), as early SAELens has it."""

    def forward(self, pre: Pre) -> Pre:
        return pre.relu().tanh()


class JumpRelu(nn.Module):
    """f = h where h > θ and h > 0, else 0. With one θ for all features: BatchTopK after its training.

    Source: Rajamanoharan et al. 2024 (JumpReLU), equation 3; Bussmann et al. 2024 (BatchTopK), equation 6.
    """

    threshold: Tensor

    def __init__(self, threshold: Float[Tensor, "feature"]) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, pre: Pre) -> Pre:
        return pre.relu() * (pre > self.threshold)


class TopK(nn.Module):
    """The k largest pre-activations of each row, where they are positive; all others 0. `signed` keeps negative ones too.

    Source: Gao et al. 2024, equation 3 (with the ReLU that SAELens and Overcomplete add, and saev does not).
    """

    def __init__(self, k: int, n_features: int, *, signed: bool = False) -> None:
        super().__init__()
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= n_features:
            raise InputError(f"k is between 1 and the {n_features} features, not {k!r}")
        self.k, self.signed = k, signed

    def forward(self, pre: Pre) -> Pre:
        largest = pre.topk(self.k, dim=-1)
        kept = largest.values if self.signed else largest.values.relu()
        return torch.zeros_like(pre).scatter(-1, largest.indices, kept)

    def extra_repr(self) -> str:
        return f"k={self.k}, signed" if self.signed else f"k={self.k}"


class GroupMax(nn.Module):
    """The largest pre-activation of each of k groups of neighbouring features, where it is positive; all others 0.

    Source: sparsify 1.0, its activation "groupmax".
    """

    def __init__(self, k: int, n_features: int) -> None:
        super().__init__()
        if isinstance(k, bool) or not isinstance(k, int) or k < 1 or n_features % k:
            raise InputError(f"k is a number of groups that divides the {n_features} features, not {k!r}")
        self.k = k

    def forward(self, pre: Pre) -> Pre:
        groups = pre.unflatten(-1, (self.k, -1))
        largest = groups.max(dim=-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, largest.indices, largest.values.relu()).flatten(-2)

    def extra_repr(self) -> str:
        return f"k={self.k}"


class Gated(nn.Module):
    """f = [h + b_gate > 0] · max(exp(r) h + b_mag, 0): one set of weights decides which features are on and how much.

    Source: Rajamanoharan et al. 2024 (Gated SAE), equations 6 and 7.
    """

    b_gate: Tensor
    b_mag: Tensor
    r_mag: Tensor

    def __init__(
        self, b_gate: Float[Tensor, "feature"], b_mag: Float[Tensor, "feature"], r_mag: Float[Tensor, "feature"]
    ) -> None:
        super().__init__()
        for name, value in (("b_gate", b_gate), ("b_mag", b_mag), ("r_mag", r_mag)):
            self.register_buffer(name, value)

    def forward(self, pre: Pre) -> Pre:
        return (pre * self.r_mag.exp() + self.b_mag).relu() * (pre + self.b_gate > 0)


class Linear(nn.Module):
    """f = h."""

    def forward(self, pre: Pre) -> Pre:
        return pre


NONLINEARITIES = ("relu", "jumprelu", "topk", "batchtopk", "tanh-relu", "linear")


def nonlinearity(kind: str, n_features: int, *, k: int | None = None, threshold: Any = None, like: Tensor) -> nn.Module:
    """The nonlinearity of that name.

    Raises:
        InputError: an unknown name; k or threshold missing, or of another length.
    """
    if kind == "relu":
        return Relu()
    if kind == "tanh-relu":
        return TanhRelu()
    if kind == "linear":
        return Linear()
    if kind == "topk":
        if k is None:
            raise InputError('the activation "topk" needs k=, how many features may be on')
        return TopK(k, n_features)
    if kind in ("jumprelu", "batchtopk"):
        if threshold is None:
            raise InputError(
                f'the activation "{kind}" needs threshold=, above which features are on (one, or one each)'
            )
        values = torch.as_tensor(threshold, dtype=like.dtype, device=like.device)
        if values.isnan().any():
            raise InputError("threshold holds NaN, which no activation is above")
        if values.ndim > 1 or values.numel() not in (1, n_features):
            raise InputError(
                f"threshold is one number or one for each of {n_features} features, not {list(values.shape)}"
            )
        return JumpRelu(values.expand(n_features).clone())
    raise InputError(f"the activation is one of {', '.join(NONLINEARITIES)}, not {kind!r}")
