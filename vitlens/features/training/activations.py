"""What follows the encoder during training: it differs from what follows it afterwards where gradients need it."""

from typing import Any

import torch
from torch import Tensor, nn

from vitlens.features.dictionaries.nonlinearities import JumpRelu, Pre, Relu, TopK
from vitlens.workers import Workers

#: Weight of the past in the running threshold of BatchTopK.
MEMORY = 0.9
#: How far from a threshold of JumpReLU a pre-activation moves it, and how much faster than weights it learns.
BANDWIDTH, THRESHOLD_SPEED = 0.5, 10.0


class LearnedRelu(nn.Module):
    """f = max(h, 0), with the penalty Σ f: decoder rows have length 1, so it needs no norms."""

    #: Whether about k features are active from the first step on.
    begins_sparse = False

    def begin(self, pre: Pre) -> None:
        """Sets what the first pre-activations decide; nothing here."""

    def forward(self, pre: Pre) -> Pre:
        return pre.relu()

    def boundary(self, pre: Pre) -> Tensor:
        """The number above which a pre-activation is active, of each row or each feature."""
        return torch.zeros_like(pre[:, :1])

    def penalty(self, pre: Pre, features: Pre) -> Tensor | None:
        return features.sum(dim=1).mean()

    def after_step(self, features: Pre, workers: Workers) -> None:
        """Takes note of a step; nothing here."""

    def finished(self, n_features: int, factor: float) -> nn.Module:
        """What follows the encoder whose pre-activations are `factor` times those of the training."""
        return Relu()


class LearnedTopK(LearnedRelu):
    """The k largest pre-activations of each row, where they are positive. Source: Gao et al. 2024, equation 3."""

    begins_sparse = True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Pre) -> Pre:
        largest = pre.topk(self.k, dim=1, sorted=False)
        return torch.zeros_like(pre).scatter(1, largest.indices, largest.values.relu())

    def boundary(self, pre: Pre) -> Tensor:
        return pre.topk(self.k, dim=1, sorted=False).values.amin(dim=1, keepdim=True).clamp(min=0)

    def penalty(self, pre: Pre, features: Pre) -> Tensor | None:
        return None

    def finished(self, n_features: int, factor: float) -> nn.Module:
        return TopK(self.k, n_features)


class LearnedBatchTopK(LearnedTopK):
    """The k · n largest of the n rows of a batch; afterwards a threshold, the running mean of the least of them.

    Source: Bussmann, Leask & Nanda 2024, equations 4 to 6.
    """

    threshold: Tensor

    def __init__(self, k: int) -> None:
        super().__init__(k)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))
        #: The least feature of the last batch.
        self.least = torch.zeros(())

    n_steps: Tensor

    def forward(self, pre: Pre) -> Pre:
        # The smallest number that is larger than 0, where fewer pre-activations than that are.
        tiny = torch.finfo(pre.dtype).tiny
        self.least = pre.detach().flatten().topk(self.k * len(pre), sorted=False).values.amin().clamp(min=tiny)
        return pre.masked_fill(pre < self.least, 0.0)

    def boundary(self, pre: Pre) -> Tensor:
        return self.least

    def after_step(self, features: Pre, workers: Workers) -> None:
        least = workers.mean(self.least.float())
        memory = MEMORY if self.n_steps else 0.0
        self.threshold.copy_(memory * self.threshold + (1 - memory) * least)
        self.n_steps += 1

    def finished(self, n_features: int, factor: float) -> nn.Module:
        return JumpRelu((self.threshold * factor).expand(n_features).clone())


class LearnedJumpRelu(LearnedRelu):
    """f = h where h > θ; θ learns through a rectangle of the width ε around it.

    The penalty is (‖f‖₀ / k − 1)², with the mean ‖f‖₀ of a batch, or ‖f‖₀ where its weight is given (k is None).

    Source: Rajamanoharan et al. 2024, equations 9 to 12; the squared distance from k is that of Marks, Karvonen & Mueller
    2024 (dictionary_learning).
    """

    begins_sparse = True

    def __init__(self, k: int, n_features: int, *, aims_at_k: bool) -> None:
        super().__init__()
        self.k, self.aims_at_k = k, aims_at_k
        self.threshold = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def begin(self, pre: Pre) -> None:
        # The threshold of all features above which k of them are active in a row on average.
        self.threshold.fill_(float(pre.flatten().topk(self.k * len(pre), sorted=False).values.amin().clamp(min=0)))

    def forward(self, pre: Pre) -> Pre:
        found: Tensor = _Jump.apply(pre, self.threshold)
        return found

    def boundary(self, pre: Pre) -> Tensor:
        return self.threshold

    def penalty(self, pre: Pre, features: Pre) -> Tensor | None:
        active: Tensor = _Step.apply(pre, self.threshold)
        l0 = active.sum(dim=1).mean()
        return (l0 / self.k - 1).square() if self.aims_at_k else l0

    def after_step(self, features: Pre, workers: Workers) -> None:
        # Set back after the step: a clamp before it would take the gradient of a threshold that has reached 0.
        self.threshold.data.clamp_(min=0)

    def finished(self, n_features: int, factor: float) -> nn.Module:
        return JumpRelu(self.threshold.detach() * factor)


class _Jump(torch.autograd.Function):
    """h where h > θ. Backward: to h where it is active; to θ −θ/ε near the threshold."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < BANDWIDTH / 2
        return gradient * (pre > threshold), -(gradient * near).sum(dim=0) * threshold / BANDWIDTH


class _Step(torch.autograd.Function):
    """1 where h > θ. Backward: to θ −1/ε near the threshold."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        return (pre > threshold).to(pre)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < BANDWIDTH / 2
        return None, -(gradient * near).sum(dim=0) / BANDWIDTH


def learned_activation(kind: str, k: int, n_features: int, *, aims_at_k: bool) -> LearnedRelu:
    """What follows the encoder in a training of this kind."""
    if kind == "topk":
        return LearnedTopK(k)
    if kind == "batchtopk":
        return LearnedBatchTopK(k)
    return LearnedJumpRelu(k, n_features, aims_at_k=aims_at_k) if kind == "jumprelu" else LearnedRelu()
