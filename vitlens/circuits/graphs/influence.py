"""Influence in an attribution graph: how much of the logits goes through each node, along all paths."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def influence_on_logits(
    shares: Float[Tensor, "target source"], columns: Int[Tensor, "target"]
) -> tuple[Float[Tensor, "source"], Float[Tensor, "target"]]:
    """The influence of each source, and of each target with that of the logits themselves, which share 1.

    x_t = w_t + Σ_s x_s A_st, where A are the shares and w_t = 1 / (number of logits) at logits, else 0: the sum over all
    paths, each worth the product of its edges' shares.

    Args:
        shares: of each target's sources; a row sums to 1 at most.
        columns: the place of each target among the sources; −1 of logits.
    """
    is_logit = columns < 0
    logits = is_logit.to(shares) / is_logit.sum()
    between = torch.zeros(len(shares), len(shares), dtype=shares.dtype, device=shares.device)
    between[:, ~is_logit] = shares[:, columns[~is_logit]]
    one = torch.eye(len(shares), dtype=shares.dtype, device=shares.device)
    of_targets = torch.linalg.solve(one - between.T, logits)
    return of_targets @ shares, of_targets


def completing(values: Float[Tensor, "item"], share: float) -> Bool[Tensor, "item"]:
    """The fewest items, the largest, whose sum is this share of the sum of all; never an item that is 0."""
    order = values.argsort(descending=True, stable=True)
    before = values[order].cumsum(dim=0) - values[order]
    kept = torch.zeros_like(values, dtype=torch.bool)
    # The rounding of a sum does not take one item more.
    kept[order] = (before < (share - 1e-12) * values.sum()) & (values[order] > 0)
    return kept


def cumulative_shares(values: Float[Tensor, "item"]) -> Float[Tensor, "item"]:
    """Of each item the share of the sum that it and all larger ones make up."""
    order = values.argsort(descending=True, stable=True)
    found = torch.empty_like(values)
    found[order] = values[order].cumsum(dim=0) / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return found
