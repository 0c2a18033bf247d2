"""Compares sums of importances over sets of patches with the probability that the class loses without these patches."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import require_seed, require_whole
from vitlens.data.masks import Masks
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench, places
from vitlens.faithfulness.maps import MapScorer, ScoredMap
from vitlens.heatmaps.methods.baselines import picture_key


def sensitivity_n(
    bench: Bench,
    masks: Masks | None = None,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    n_draws: int = 20,
    seed: int = 0,
) -> MapScorer:
    """Pearson's correlation of Σ_{j∈S} importance_j with f(x) − f(x without S) over random S of n patches, mean over n.

    The sets and what the model says without them are the same for all maps. A map that is constant over all sets of every
    size has no correlation: NaN.

    Args:
        shares: the sizes n, as shares of the patches.
        n_draws: random sets of each size.

    Raises:
        InputError: sizes that leave nothing or take nothing, fewer than three sets.

    Source: Ancona et al. 2018 (Towards Better Understanding of Gradient-based Attribution Methods), section 4.
    """
    require_whole(n_draws=n_draws)
    require_seed(seed)
    if n_draws < 3:
        raise InputError(f"a correlation takes at least 3 sets of each size (n_draws), not {n_draws}")
    sizes = [round(share * bench.n_patches) for share in shares if 0 < share < 1]
    if not sizes or len(sizes) < len(shares) or not all(0 < size < bench.n_patches for size in sizes):
        raise InputError(f"sets hold some of the {bench.n_patches} patches, not all or none: {list(shares)}")
    patches = random_sets(bench, sizes, n_draws, seed)
    drops = bench.drops(patches).unflatten(1, (len(sizes), n_draws))

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        sums = einsum(scored.importance, patches.double(), "i p, i s p -> i s")
        return _pearson(sums.unflatten(1, (len(sizes), n_draws)), drops).nanmean(dim=1)

    return score


def random_sets(bench: Bench, sizes: Sequence[int], n_draws: int, seed: int = 0) -> Bool[Tensor, "image set patch"]:
    """`n_draws` sets of each size, one size after the other, drawn from each picture's own pixels."""
    found = []
    for image in bench.images:
        generator = np.random.default_rng([seed, picture_key(image)])
        order = generator.permuted(np.tile(np.arange(bench.n_patches), (len(sizes) * n_draws, 1)), axis=1)
        found.append(order < np.repeat(sizes, n_draws)[:, None])
    return torch.from_numpy(np.stack(found)).to(bench.images.device)


def infidelity(bench: Bench, masks: Masks | None = None, *, n_draws: int = 50, seed: int = 0) -> MapScorer:
    """min_β E_S[(β Σ_{j∈S} importance_j − (f(x) − f(x without S)))²] / E_S[(f(x) − f(x without S))²] over random squares S.

    β scales the map to where it fits best, picture by picture, as the authors do; over the second moment of the drops, 0
    is a map that says every drop exactly, and 1 one that says no more than a map of zeros. β may be negative: what is
    measured is whether sums are proportional to drops, the sign is left to the other metrics.

    Args:
        n_draws: random squares, of sides 1 to that of the grid less one, at random places.

    Raises:
        InputError: fewer than two squares.

    Source: Yeh et al. 2019 (On the (In)fidelity and Sensitivity of Explanations), definition 2.1 and section 3.1.
    """
    require_whole(n_draws=n_draws)
    require_seed(seed)
    if n_draws < 2:
        raise InputError(f"infidelity takes at least 2 squares (n_draws), not {n_draws}")
    patches = random_squares(bench, n_draws, seed)
    drops = bench.drops(patches)

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        sums = einsum(scored.importance, patches.double(), "i p, i s p -> i s")
        # The least squares fit leaves Σ d² − (Σ s d)² / Σ s²; a map of zeros explains nothing.
        fitted = (sums * drops).sum(dim=1).square() / sums.square().sum(dim=1).clamp(min=torch.finfo(sums.dtype).tiny)
        return 1 - fitted / drops.square().sum(dim=1)

    return score


def random_squares(bench: Bench, n_draws: int, seed: int = 0) -> Bool[Tensor, "image set patch"]:
    """`n_draws` squares of patches of random sides at random places, drawn from each picture's own pixels."""
    rows, columns = bench.grid
    row, column = np.arange(rows), np.arange(columns)
    found = []
    for image in bench.images:
        generator = np.random.default_rng([seed, picture_key(image)])
        side = generator.integers(1, max(2, min(rows, columns)), size=n_draws)
        top, left = (np.floor(generator.random(n_draws) * (n - side + 1)).astype(int) for n in (rows, columns))
        inside_rows = (row >= top[:, None]) & (row < (top + side)[:, None])
        inside_columns = (column >= left[:, None]) & (column < (left + side)[:, None])
        found.append((inside_rows[:, :, None] & inside_columns[:, None, :]).reshape(n_draws, -1))
    return torch.from_numpy(np.stack(found)).to(bench.images.device)


def saco(bench: Bench, masks: Masks | None = None, *, n_groups: int = 10) -> MapScorer:
    """Σ_{i<j} ± (s_i − s_j) / Σ_{i<j} |s_i − s_j|: do groups of patches with more importance matter more, by how much more?

    The patches are cut by their order into groups of (nearly) equal size; s_i is the mean importance of group i, d_i what
    the class's probability loses while that group alone is replaced; a pair counts + where d_i ≥ d_j for s_i ≥ s_j, and −
    where not. 1 where the order of all groups is right, about 0 for random maps, −1 where it is wrong throughout.

    Args:
        n_groups: at most as many as there are patches.

    Raises:
        InputError: fewer than two groups.

    Source: Wu et al. 2024 (On the Faithfulness of Vision Transformer Explanations), algorithm 1, with patches in place of
    pixels and the bench's filling (theirs is the mean colour).
    """
    require_whole(n_groups=n_groups)
    n = min(n_groups, bench.n_patches)
    if n < 2:
        raise InputError(f"patches are cut into 2 groups or more (n_groups), not {n}")

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        # Place p of N belongs to group ⌊p K / N⌋.
        group_of = places(scored.importance) * n // bench.n_patches
        members = torch.nn.functional.one_hot(group_of, n).mT.bool()
        salience = einsum(scored.importance, members.double(), "i p, i g p -> i g") / members.sum(dim=-1)
        drops = bench.drops(members)
        first, second = torch.triu_indices(n, n, 1, device=drops.device)
        weight = salience[:, first] - salience[:, second]
        right = drops[:, first] >= drops[:, second]
        return torch.where(right, weight, -weight).sum(dim=1) / weight.sum(dim=1)

    return score


def _pearson(x: Float[Tensor, "*rest set"], y: Float[Tensor, "*rest set"]) -> Float[Tensor, "*rest"]:
    """NaN where one of the two does not vary."""
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    return (x * y).sum(dim=-1) / (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()
