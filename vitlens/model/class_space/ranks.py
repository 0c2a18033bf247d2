"""The rank of a class: how many classes have a strictly larger logit. 0 is top-1; equal logits share a rank."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError


def rank_of(logits: Float[Tensor, "*rest classes"], of_class: Float[Tensor, "*rest 1"]) -> Int[Tensor, "*rest"]:
    """Counts the logits that are larger than that of the class. Nothing is larger than NaN: see `check_logits`."""
    # Counting into floats is four times as fast as into bools: no second tensor is converted and summed.
    larger = torch.gt(
        logits.detach(), of_class.detach(), out=torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    )
    return larger.sum(dim=-1).int()


def check_logits(largest: Float[Tensor, "..."], where: str) -> None:
    """Raises InputError if the largest logit of a token is NaN or infinite.

    With a NaN, every class would have rank 0, top-1. A class with the logit −∞ is last and has the probability 0.
    """
    if not largest.isfinite().all():
        raise no_rank(where, largest.dtype)


def no_rank(where: str, dtype: torch.dtype) -> InputError:
    """The error for logits that are not finite."""
    remedy = "check the weights and pictures" if dtype.itemsize > 2 else "compute in float32"
    kind = str(dtype).removeprefix("torch.")
    return InputError(f"{where} has logits that are NaN or infinite in {kind}, which have no rank: {remedy}")
