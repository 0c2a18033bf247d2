"""Does a map say by how much? Its sums over sets of patches beside what the class loses without these patches."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import require_seed, require_whole
from vitlens.data.masks import Masks
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench, places
from vitlens.faithfulness.maps import ScoredMap
from vitlens.heatmaps.methods.baselines import picture_key

Drawn = tuple[Bool[Tensor, "image set patch"], Float[Tensor, "image set"]]


def sensitivity_n(
    bench: Bench,
    scored: ScoredMap,
    masks: Masks | None = None,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    sets: int = 20,
    seed: int = 0,
) -> Float[Tensor, "image"]:
    """Pearson's correlation of Σ_{j∈S} importance_j with f(x) − f(x without S) over random S of n patches, mean over n.

    The sets and what the model says without them are the same for all maps. A map that is constant over all sets of every
    size has no correlation: NaN.

    Args:
        shares: the sizes n, as shares of the patches.
        sets: random sets of each size.

    Raises:
        InputError: sizes that leave nothing or take nothing, fewer than three sets.

    Source: Ancona et al. 2018 (Towards Better Understanding of Gradient-based Attribution Methods), section 4.
    """
    require_whole(sets=sets)
    require_seed(seed)
    if sets < 3:
        raise InputError(f"a correlation takes at least 3 sets of each size, not {sets}")
    sizes = [round(share * bench.n_patches) for share in shares if 0 < share < 1]
    if not sizes or len(sizes) < len(shares) or not all(0 < size < bench.n_patches for size in sizes):
        raise InputError(f"sets hold some of the {bench.n_patches} patches, not all or none: {list(shares)}")

    def draw(generator: np.random.Generator) -> np.ndarray:
        order = generator.permuted(np.tile(np.arange(bench.n_patches), (len(sizes) * sets, 1)), axis=1)
        return order < np.repeat(sizes, sets)[:, None]

    patches, drops = _shared(bench, ("sensitivity_n", *sizes, sets, seed), draw, seed)
    sums = einsum(scored.importance, patches.double(), "i p, i s p -> i s")
    by_size = _pearson(sums.unflatten(1, (len(sizes), sets)), drops.unflatten(1, (len(sizes), sets)))
    return by_size.nanmean(dim=1)


def infidelity(
    bench: Bench, scored: ScoredMap, masks: Masks | None = None, *, squares: int = 50, seed: int = 0
) -> Float[Tensor, "image"]:
    """min_β E_S[(β Σ_{j∈S} importance_j − (f(x) − f(x without S)))²] / E_S[(f(x) − f(x without S))²] over random squares S.

    β scales the map to where it fits best, picture by picture, as the authors do; over the second moment of the drops, 0
    is a map that says every drop exactly, and 1 one that says no more than a map of zeros. β may be negative: what is
    measured is whether sums are proportional to drops, the sign is left to the other metrics.

    Args:
        squares: random squares, of sides 1 to that of the grid less one, at random places.

    Raises:
        InputError: fewer than two squares.

    Source: Yeh et al. 2019 (On the (In)fidelity and Sensitivity of Explanations), definition 2.1 and section 3.1.
    """
    require_whole(squares=squares)
    require_seed(seed)
    if squares < 2:
        raise InputError(f"infidelity takes at least 2 squares, not {squares}")
    rows, columns = bench.grid

    def draw(generator: np.random.Generator) -> np.ndarray:
        side = generator.integers(1, max(2, min(rows, columns)), size=squares)
        top, left = (np.floor(generator.random(squares) * (n - side + 1)).astype(int) for n in (rows, columns))
        row, column = np.arange(rows), np.arange(columns)
        inside_rows = (row >= top[:, None]) & (row < (top + side)[:, None])
        inside_columns = (column >= left[:, None]) & (column < (left + side)[:, None])
        return (inside_rows[:, :, None] & inside_columns[:, None, :]).reshape(squares, -1)

    patches, drops = _shared(bench, ("infidelity", squares, seed), draw, seed)
    sums = einsum(scored.importance, patches.double(), "i p, i s p -> i s")
    # The least squares fit leaves Σ d² − (Σ s d)² / Σ s²; a map of zeros explains nothing.
    explained = (sums * drops).sum(dim=1).square() / sums.square().sum(dim=1).clamp(min=torch.finfo(sums.dtype).tiny)
    return 1 - explained / drops.square().sum(dim=1)


def saco(bench: Bench, scored: ScoredMap, masks: Masks | None = None, *, groups: int = 10) -> Float[Tensor, "image"]:
    """Σ_{i<j} ± (s_i − s_j) / Σ_{i<j} |s_i − s_j|: do groups of patches with more importance matter more, by how much more?

    The patches are cut by their order into groups of (nearly) equal size; s_i is the mean importance of group i, d_i what
    the class's probability loses while that group alone is replaced; a pair counts + where d_i ≥ d_j for s_i ≥ s_j, and −
    where not. 1 where the order of all groups is right, about 0 for random maps, −1 where it is wrong throughout.

    Args:
        groups: at most as many as there are patches.

    Raises:
        InputError: fewer than two groups.

    Source: Wu et al. 2024 (On the Faithfulness of Vision Transformer Explanations), algorithm 1, with patches in place of
    pixels and the bench's filling (theirs is the mean colour).
    """
    require_whole(groups=groups)
    groups = min(groups, bench.n_patches)
    if groups < 2:
        raise InputError(f"patches are cut into 2 groups or more, not {groups}")
    # Place p of N belongs to group ⌊p K / N⌋.
    group_of = places(scored.importance) * groups // bench.n_patches
    members = torch.nn.functional.one_hot(group_of, groups).mT.bool()
    salience = einsum(scored.importance, members.double(), "i p, i g p -> i g") / members.sum(dim=-1)
    drops = bench.drops(members)
    first, second = torch.triu_indices(groups, groups, 1, device=drops.device)
    weight = salience[:, first] - salience[:, second]
    right = drops[:, first] >= drops[:, second]
    return torch.where(right, weight, -weight).sum(dim=1) / weight.sum(dim=1)


def _shared(
    bench: Bench, key: tuple[object, ...], draw: Callable[[np.random.Generator], np.ndarray], seed: int
) -> Drawn:
    """Sets of patches, drawn from each picture's pixels, and what the class loses without them: run once for all maps."""
    if key not in bench.shared:
        drawn = [draw(np.random.default_rng([seed, picture_key(image)])) for image in bench.images]
        patches = torch.from_numpy(np.stack(drawn)).to(bench.images.device)
        bench.shared[key] = patches, bench.drops(patches)
    found: Drawn = bench.shared[key]
    return found


def _pearson(x: Float[Tensor, "*rest set"], y: Float[Tensor, "*rest set"]) -> Float[Tensor, "*rest"]:
    """NaN where one of the two does not vary."""
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    return (x * y).sum(dim=-1) / (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()
