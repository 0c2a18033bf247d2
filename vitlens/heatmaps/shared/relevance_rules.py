"""How relevance passes from what a layer returns to what it reads: one rule for each kind of layer of a transformer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

#: What is added to the size of every divisor.
STABILISER = 1e-9


def divide(dividend: Float[Tensor, "..."], divisor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """dividend / (divisor + ε sign(divisor)); 0 where the divisor is 0."""
    sign = divisor.sign()
    return dividend * sign / (divisor.abs() + STABILISER)


def linear_rule(
    x: Float[Tensor, "*batch features"], weight: Float[Tensor, "out features"], relevance: Float[Tensor, "*batch out"]
) -> Float[Tensor, "*batch features"]:
    """R_j = Σ_i x_j w_ij / (Σ_j' x_j' w_ij') R_i over the products that are not negative: LRP's αβ rule, α = 1, β = 0.

    Biases take no relevance. An output none of whose products is positive keeps what it has: nothing passes.

    Source: Chefer, Gur & Wolf 2021 (Transformer Interpretability), section 3.1, the rule for the index set
    q = {(i, j): x_j w_ij ≥ 0}; after Bach et al. 2015.
    """
    positive, negative = (x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))
    share = divide(relevance, positive[0] @ positive[1].T + negative[0] @ negative[1].T)
    return positive[0] * (share @ positive[1]) + negative[0] * (share @ negative[1])


def add_rule(
    terms: Sequence[Float[Tensor, "image *rest"]], relevance: Float[Tensor, "image *rest"]
) -> list[Float[Tensor, "image *rest"]]:
    """The relevance of each term of a sum: R_k = x_k / (Σ_m x_m) R, then each term's total set to its share.

    Where terms cancel, these fractions grow without bound while their sum stays, so each term is normalised:
    R̄_k = R_k · |Σ R_k| / (Σ_m |Σ R_m|) · Σ R / Σ R_k = R_k sign(Σ R_k) Σ R / Σ_m |Σ R_m|, every Σ over one picture.

    Source: Chefer, Gur & Wolf 2021, section 3.2 (skip connections and their normalisation), for two terms. There, a
    sum runs over the whole tensor, which is one picture's.
    """
    share = divide(relevance, sum(terms[1:], terms[0]))
    parts = [term * share for term in terms]
    totals = torch.stack([_total(part) for part in parts])
    # Where all totals are 0, nothing came in.
    factor = _total(relevance) / totals.abs().sum(dim=0).clamp(min=torch.finfo(totals.dtype).tiny)
    return [part * total.sign() * factor for part, total in zip(parts, totals, strict=True)]


def matmul_rule(
    left: Float[Tensor, "*batch n m"], right: Float[Tensor, "*batch m k"], relevance: Float[Tensor, "*batch n k"]
) -> tuple[Float[Tensor, "*batch n m"], Float[Tensor, "*batch m k"]]:
    """The relevance of both factors of Z = left @ right: R_left = ½ left ∘ (R / Z @ rightᵀ), and right alike.

    Each factor alone would take all of the relevance; normalised as in `add_rule`, whose totals are equal here, half.

    Source: Chefer, Gur & Wolf 2021, section 3.2 (matrix multiplication).
    """
    share = divide(relevance, left @ right)
    return left * (share @ right.mT) / 2, right * (left.mT @ share) / 2


def _total(x: Float[Tensor, "image *rest"]) -> Float[Tensor, "image *ones"]:
    """The sum over everything of one picture, its axes kept."""
    return x.sum(dim=tuple(range(1, x.ndim)), keepdim=True)
