"""Takes what divides in the norms of any module as constants, so that a gradient sees the linear map that is left."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: What a module writes a norm of its own with: lengths, deviations, roots. One number for each vector is a divisor.
LENGTHS = frozenset(
    {
        torch.norm, Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm, torch.std, Tensor.std,
        torch.sqrt, Tensor.sqrt, torch.rsqrt, Tensor.rsqrt,
    }
)  # fmt: skip


class FrozenNorms(TorchFunctionMode):
    """Inside, norms divide by constants: those of this run, or those of a run before, in the same order.

    `divisors` are those that were met. Values change by rounding only, unless divisors of another run are given.
    """

    def __init__(self, before: "FrozenNorms | None" = None) -> None:
        super().__init__()
        self.divisors: list[Tensor] = []
        self._given = None if before is None else iter(before.divisors)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LENGTHS:
            length = func(*args, **kwargs)
            is_divisor = length.ndim < 2 or length.shape[-1] == 1
            return self._constant(length) if is_divisor else length
        if func in _NORMS:
            return getattr(self, _NORMS[func])(*args, **kwargs)
        return func(*args, **kwargs)

    def _constant(self, divisor: Tensor) -> Tensor:
        self.divisors.append(divisor.detach() if self._given is None else next(self._given))
        return self.divisors[-1]

    def layer_norm(
        self,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        axes = list(range(-len(normalized_shape), 0))
        variance = input.var(dim=axes, keepdim=True, unbiased=False)
        normed = (input - input.mean(dim=axes, keepdim=True)) / self._constant((variance + eps).sqrt())
        normed = normed if weight is None else normed * weight
        return normed if bias is None else normed + bias

    def rms_norm(
        self, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        square = input.pow(2).mean(dim=list(range(-len(normalized_shape), 0)), keepdim=True)
        normed = input / self._constant((square + (torch.finfo(input.dtype).eps if eps is None else eps)).sqrt())
        return normed if weight is None else normed * weight

    def normalize(self, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
        return input / self._constant(input.norm(p, dim, keepdim=True).clamp_min(eps))

    def cosine_similarity(self, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        product = x1 * x2
        lengths = [torch.linalg.vector_norm(x, dim=dim).clamp_min(eps) for x in torch.broadcast_tensors(x1, x2)]
        return product.sum(dim=dim) / self._constant(lengths[0] * lengths[1])


#: Written out, so that what divides is seen.
_NORMS: dict[Any, str] = {
    F.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
    F.normalize: "normalize",
    F.cosine_similarity: "cosine_similarity",
    torch.cosine_similarity: "cosine_similarity",
}
