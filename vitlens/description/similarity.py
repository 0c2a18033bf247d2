"""Measures which heads have similar patterns, and which blocks, of one model or two, similar representations."""

from dataclasses import dataclass, field

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.description.tokens import at_least_single

#: The unbiased estimator divides by n (n − 3).
FEWEST_ROWS = 4


def pattern_cosines(
    patterns: list[Float[Tensor, "image head query tokens"]],
) -> Float[Tensor, "map map"]:
    """The cosine between the patterns of every two heads of all blocks, Σ A·A' / |A| |A'|, summed over the pictures.

    One picture at a time, so that only the patterns themselves are held.
    """
    total = torch.zeros((), dtype=torch.float64)
    for maps in zip(*patterns, strict=True):
        flat = at_least_single(torch.cat([block.flatten(1) for block in maps]))
        flat = flat / flat.norm(dim=1, keepdim=True)
        total = total + (flat @ flat.T).cpu().double()
    return total


def unbiased_hsic(
    left: Float[Tensor, "block row row2"], right: Float[Tensor, "block2 row row2"]
) -> Float[Tensor, "block block2"]:
    """HSIC₁ of every left with every right Gram matrix, of n rows each.

    HSIC₁(K, L) = [tr(K̃ L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((n−1)(n−2)) − 2/(n−2) · 1ᵀK̃L̃1] / (n(n−3)), with K̃, L̃ the matrices whose
    diagonal is set to 0 (Nguyen, Raghu & Kornblith 2021, equation 3).

    Source: Song et al. 2012 (Feature Selection via Dependence Maximization), equation 5.
    """
    n = left.shape[-1]
    hollow = 1 - torch.eye(n, dtype=left.dtype, device=left.device)
    left, right = left * hollow, right * hollow
    traces = einsum(left, right, "a i j, b i j -> a b")
    sums_left, sums_right = left.sum(dim=-1), right.sum(dim=-1)
    totals = sums_left.sum(dim=-1)[:, None] * sums_right.sum(dim=-1)
    mixed = einsum(sums_left, sums_right, "a i, b i -> a b")
    return (traces + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * mixed) / (n * (n - 3))


@dataclass
class MinibatchCKA:
    """Linear CKA of every left block with every right block, from minibatches of `rows` pictures.

    CKA = mean HSIC₁(K, L) / √(mean HSIC₁(K, K) · mean HSIC₁(L, L)), means over minibatches, K = X Xᵀ and L = Y Yᵀ of the
    minibatch (Nguyen, Raghu & Kornblith 2021, equation 2). Minibatches are filled however pictures arrive, so the batches
    of the forward passes do not matter; the last may be smaller, and is left out below 4.
    """

    rows: int
    waiting: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    n_minibatches: int = 0
    cross: Float[Tensor, "block block2"] = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    left: Float[Tensor, "block"] = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    right: Float[Tensor, "block2"] = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, left: Float[Tensor, "image block d"], right: Float[Tensor, "image block2 d2"]) -> None:
        """The representations of the same pictures behind the blocks of both sides."""
        for pair in zip(left.detach().cpu().double(), right.detach().cpu().double(), strict=True):
            self.waiting.append(pair)
            if len(self.waiting) == self.rows:
                self._close()

    def value(self) -> Float[Tensor, "block block2"] | None:
        """CKA of all pictures so far; None where they are fewer than 4."""
        if len(self.waiting) >= FEWEST_ROWS:
            self._close()
        if not self.n_minibatches:
            return None
        return self.cross / (self.left[:, None] * self.right).sqrt()

    def _close(self) -> None:
        left, right = (torch.stack(side, dim=1) for side in zip(*self.waiting, strict=True))
        self.waiting.clear()
        grams = left @ left.mT, right @ right.mT
        self.n_minibatches += 1
        self.cross = self.cross + unbiased_hsic(*grams)
        # Only the diagonals of these are needed: block by block.
        self.left, self.right = (
            total + torch.cat([unbiased_hsic(gram[None], gram[None])[0] for gram in side])
            for total, side in zip((self.left, self.right), grams, strict=True)
        )
