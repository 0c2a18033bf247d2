"""Bootstrap intervals and permutation tests for differences over pictures, seeded."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from vitlens.arguments import checked, require_seed, require_whole
from vitlens.errors import InputError

__all__ = ["bootstrap", "compare_groups", "permutation_test"]

#: Draws that are multiplied at once with this many quantities: enough for a fast product, and little memory.
DRAWS_AT_ONCE, COLUMNS_AT_ONCE = 64, 4096


class PermutationTest(NamedTuple):
    """The difference of two groups' means, and its one-sided p value."""

    difference: float
    p: float


class GroupDifference(NamedTuple):
    """The difference of two groups' means, its interval, and its two-sided p value, of each quantity."""

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


@checked
def permutation_test(
    inside: np.ndarray, outside: np.ndarray, *, n_draws: int = 300, seed: int = 0, paper_compat: bool = False
) -> PermutationTest:
    """Tests the difference of two groups' means against `n_draws` shuffles of their values (Methods A8).

    Values of one picture are no independent draws, so over many pictures almost any difference is significant by this
    test: `bootstrap` over pictures says how certain it is.

    Args:
        paper_compat: p = #(Δ < Δ_shuffled) / n_draws as published; by default (1 + #(Δ ≤ Δ_shuffled)) / (1 + n_draws),
            which is never 0.

    Raises:
        InputError: an empty group, NaN or infinite values, groups that are no lists of numbers, fewer than one shuffle.

    Examples:
        >>> import numpy as np
        >>> import vitlens
        >>> inside, outside = np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 2.0])
        >>> test = vitlens.statistics.permutation_test(inside, outside)
        >>> round(test.difference, 2), round(test.p, 1)
        (1.67, 0.1)
    """
    inside, outside = (_numbers(group, name) for group, name in ((inside, "inside"), (outside, "outside")))
    for group, name in ((inside, "inside"), (outside, "outside")):
        if group.ndim != 1 or not len(group):
            raise InputError(
                f"a permutation test compares two lists of values; {name} has the shape {list(group.shape)}"
            )
        if not np.isfinite(group).all():
            raise InputError(
                f"a permutation test compares numbers, and {name} has NaN or infinite values: leave them out"
            )
    values, where = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    counts = np.bincount(where[: len(inside)], minlength=len(values))
    others = np.bincount(where[len(inside) :], minlength=len(values))
    return permutation_test_of_counts(values, counts, others, n_draws=n_draws, seed=seed, paper_compat=paper_compat)


def permutation_test_of_counts(
    values: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    n_draws: int = 300,
    seed: int = 0,
    paper_compat: bool = False,
) -> PermutationTest:
    """`permutation_test` of values that are given as how often each occurs in the two groups.

    To shuffle a pool is to draw, without replacement, how often each value comes into the first group: counts are all
    that the test needs, so it takes no more memory for a million tokens than for ten. NaN where a group is empty.

    Raises:
        InputError: fewer than one shuffle, values or counts that are not finite or do not fit each other.
    """
    check_draws(n_draws, seed)
    values, inside, outside = np.asarray(values), np.asarray(inside), np.asarray(outside)
    if not values.shape == inside.shape == outside.shape or values.ndim != 1:
        shapes = ", ".join(str(list(x.shape)) for x in (values, inside, outside))
        raise InputError(
            f"values and how often each occurs in the two groups are three lists of one length, not {shapes}"
        )
    if not np.isfinite(values.astype(np.float64)).all():
        raise InputError("a permutation test compares numbers, and there are NaN or infinite values: leave them out")
    if any(not np.issubdtype(x.dtype, np.integer) or (x < 0).any() for x in (inside, outside)):
        raise InputError("how often a value occurs is a whole number, 0 or more")
    pool = inside + outside
    n_inside, n_outside = int(inside.sum()), int(outside.sum())
    if not n_inside or not n_outside:
        return PermutationTest(float("nan"), float("nan"))
    total = float(pool @ values)

    def difference(drawn: np.ndarray) -> Any:
        sums = drawn @ values
        return sums / n_inside - (total - sums) / n_outside

    generator = np.random.default_rng(seed)
    observed = float(difference(inside))
    shuffled = difference(generator.multivariate_hypergeometric(pool, n_inside, size=n_draws, method="marginals"))
    # Equal tables must count as equal whatever the order of the sum.
    tolerance = 1e-12 * max(1.0, float(np.abs(values).max()))
    if paper_compat:
        return PermutationTest(observed, float((shuffled > observed + tolerance).mean()))
    return PermutationTest(observed, float((1 + (shuffled >= observed - tolerance).sum()) / (1 + n_draws)))


@checked
def bootstrap(
    sums: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    clusters: np.ndarray | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bootstrap mean and confidence interval over pictures: draws whole pictures (or clusters) with replacement.

    Args:
        sums: [picture, …]: each picture's value, or with `counts` the sum of its values; NaN where it has none.
        counts: [picture, …]: over how many values each sum runs; the mean is Σ sums / Σ counts.
        clusters: [picture]: e.g. the class of each picture, to draw classes.

    Returns:
        mean, low and high end, each of the shape […]. The ends are NaN where fewer than two pictures (or clusters) have a
        value: one value does not show how much values vary.

    Raises:
        InputError: no pictures, infinite values, counts or clusters of another shape, fewer than one draw, or a level
            outside (0, 1).

    Examples:
        >>> import numpy as np
        >>> import vitlens
        >>> accuracy_of_each = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
        >>> mean, low, high = vitlens.statistics.bootstrap(accuracy_of_each)
        >>> float(mean), float(low) < 0.75 < float(high)
        (0.75, True)
    """
    check_draws(n_draws, seed, level)
    sums = _numbers(sums, "sums")
    if sums.ndim == 0 or not len(sums):
        raise InputError("there are no pictures to average over")
    counts = None if counts is None else _numbers(counts, "counts")
    _check_shapes(sums, counts, clusters)
    missing = np.isnan(sums)
    top = np.where(missing, 0.0, sums).astype(np.float64)
    bottom = np.where(missing, 0.0, 1.0 if counts is None else counts).astype(np.float64)
    if clusters is not None:
        _, where = np.unique(clusters, return_inverse=True)
        top, bottom = (_sum_by(where, x) for x in (top, bottom))
    shape = top.shape[1:]
    top, bottom = top.reshape(len(top), -1), bottom.reshape(len(bottom), -1)
    draws = np.empty((n_draws, top.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        for i, weight in enumerate(bootstrap_weights(len(top), n_draws, seed)):
            draws[i] = (weight @ top) / (weight @ bottom)
        mean = top.sum(0) / bottom.sum(0)
    known = (bottom != 0).sum(axis=0) > 1
    ends = np.full((2, top.shape[1]), np.nan)
    ends[:, known] = np.nanquantile(draws[:, known], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return mean.reshape(shape), ends[0].reshape(shape), ends[1].reshape(shape)


@checked
def compare_groups(
    values: np.ndarray,
    inside: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> GroupDifference:
    """Compares the means of many quantities between two groups of pictures, with one error rate for all of them.

    p is that of a permutation test, corrected for the number of quantities by the largest statistic (max-T): how often,
    with the groups shuffled, any quantity differs as much as this one does, in standard deviations of its own shuffled
    differences. Where no quantity differs between the groups, the chance that any gets p ≤ 0.05 is 5 %. Quantities that
    go together cost no more than one, since a shuffle moves whole pictures.

    Args:
        values: [picture, …].
        inside: [picture]: which pictures are in the first group; all others are in the second.
        clusters: [picture]: pictures that belong together, such as those of one object. Intervals draw whole clusters.
            Groups are shuffled inside of clusters; where no cluster has pictures of both groups, whole clusters are.

    Returns:
        the mean inside minus that outside, the bootstrap interval's ends over pictures (or clusters), and p, each of the
        shape […]. Where no picture differs from another, p is 1. The ends are NaN where a group has fewer than two
        pictures (or clusters).

    Raises:
        InputError: values that are no finite numbers, an empty group, groups or clusters that do not fit, fewer than one
            draw, or a level outside (0, 1).

    Source: Westfall & Young 1993 (Resampling-Based Multiple Testing), single-step max-T.

    Examples:
        >>> import numpy as np
        >>> import vitlens
        >>> values = np.random.default_rng(0).normal(size=(40, 5))
        >>> inside = np.arange(40) < 20
        >>> values[inside, 3] += 2
        >>> found = vitlens.statistics.compare_groups(values, inside)
        >>> (found.p <= 0.05).tolist()
        [False, False, False, True, False]
    """
    check_draws(n_draws, seed, level)
    values, inside = _numbers(values, "values"), _numbers(inside, "inside")
    if not values.ndim or not np.isfinite(values).all():
        raise InputError("groups are compared by finite numbers [picture, …]: leave pictures without values out")
    if inside.dtype != np.bool_ or inside.shape != values.shape[:1] or inside.all() or not inside.any():
        raise InputError(
            "inside says of each picture, True or False, whether it is in the first group; neither is empty"
        )
    _check_shapes(values, None, clusters)
    _, of_picture = np.unique(np.arange(len(values)) if clusters is None else clusters, return_inverse=True)
    table = values.reshape(len(values), -1)
    parts = [slice(start, start + COLUMNS_AT_ONCE) for start in range(0, table.shape[1], COLUMNS_AT_ONCE)]
    difference, low, high, statistic = (np.zeros(table.shape[1]) for _ in range(4))
    largest = np.zeros(n_draws)
    for part in parts:
        columns = table[:, part].astype(np.float64)
        difference[part] = _difference(inside[None] * 1.0, ~inside[None] * 1.0, columns)[0]
        draws = np.concatenate([_difference(*pair, columns) for pair in _resampled(inside, of_picture, n_draws, seed)])
        low[part], high[part] = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        shuffled = np.concatenate(
            [_difference(*pair, columns) for pair in _shuffled(inside, of_picture, n_draws, seed)]
        )
        # What does not vary differs by rounding alone.
        spread = np.sqrt((np.square(shuffled).sum(axis=0) + np.square(difference[part])) / (1 + n_draws))
        varies = spread > 1e-12 * np.abs(columns).max(axis=0)
        statistic[part][varies] = np.abs(difference[part][varies]) / spread[varies]
        if varies.any():
            largest = np.maximum(largest, (np.abs(shuffled[:, varies]) / spread[varies]).max(axis=1))
    if min(len(np.unique(of_picture[group])) for group in (inside, ~inside)) < 2:
        low[:], high[:] = np.nan, np.nan
    p = (1 + (largest[:, None] >= statistic * (1 - 1e-9)).sum(axis=0)) / (1 + n_draws)
    shape = values.shape[1:]
    return GroupDifference(*(found.reshape(shape) for found in (difference, low, high, p)))


def _difference(inside: np.ndarray, outside: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[draw, column]: the mean inside minus that outside, with weights [draw, picture]; NaN where a group is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [(weights @ columns) / weights.sum(axis=1, keepdims=True) for weights in (inside, outside)]
    return means[0] - means[1]


def _resampled(
    inside: np.ndarray, of_picture: np.ndarray, n_draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each picture of the first and the second group is in draws of whole clusters: [draw, picture] each."""
    weights = bootstrap_weights(int(of_picture.max()) + 1, n_draws, seed)
    while some := list(islice(weights, DRAWS_AT_ONCE)):
        drawn = np.stack(some)[:, of_picture]
        yield drawn * inside, drawn * ~inside


def _shuffled(
    inside: np.ndarray, of_picture: np.ndarray, n_draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which pictures are in the first and the second group of draws that shuffle the groups: [draw, picture] each."""
    generator = np.random.default_rng(seed)
    n_clusters = int(of_picture.max()) + 1
    n_inside = np.bincount(of_picture, inside, minlength=n_clusters)
    are_pure = n_clusters < len(inside) and not ((n_inside > 0) & (n_inside < np.bincount(of_picture))).any()
    # Without clusters all pictures are shuffled together; sorted by cluster and then at random, they stay in theirs.
    home = of_picture if n_clusters < len(inside) else np.zeros_like(of_picture)
    order = np.argsort(home, kind="stable")
    for start in range(0, n_draws, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, n_draws - start)
        if are_pure:
            drawn = generator.permuted(np.tile(n_inside > 0, (size, 1)), axis=1)[:, of_picture]
        else:
            drawn = np.empty((size, len(inside)), dtype=bool)
            random = np.argsort(home + generator.random((size, len(inside))), axis=1)
            drawn[:, order] = inside[random]
        yield drawn * 1.0, ~drawn * 1.0


def with_interval(value: float, low: float, high: float) -> str:
    """A value and its interval as text, "0.812 [0.700, 0.904]"; without the interval where there is none."""
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")


def bootstrap_weights(n_pictures: int, n_draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of these pictures is there, [picture], in every draw with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(n_draws):
        yield np.bincount(generator.integers(n_pictures, size=n_pictures), minlength=n_pictures).astype(np.float64)


def check_draws(n_draws: int, seed: int, level: float = 0.5) -> None:
    """Raises InputError unless these are draws, a seed, and the level of an interval."""
    require_whole(n_draws=n_draws)
    require_seed(seed)
    if n_draws < 1:
        raise InputError(f"n_draws is a whole number of at least 1, not {n_draws}")
    if not 0 < level < 1:
        raise InputError(f"the level of an interval lies between 0 and 1, not at {level}")


def _numbers(values: Any, name: str) -> np.ndarray:
    """An array of numbers."""
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        found = np.asarray(None)
    if found.dtype.kind not in "biuf":
        raise InputError(f"{name} is an array of numbers, not {type(values).__name__}")
    return found


def _check_shapes(sums: np.ndarray, counts: np.ndarray | None, clusters: Any) -> None:
    """Raises InputError where these do not belong to each other, or are no numbers."""
    if np.isinf(sums).any():
        raise InputError("there are infinite values, which have no mean")
    if counts is not None:
        if counts.shape != sums.shape:
            raise InputError(f"counts have the shape of the sums, {list(sums.shape)}, not {list(counts.shape)}")
        if not np.isfinite(counts[~np.isnan(sums)]).all():
            raise InputError("there are NaN or infinite counts")
    if clusters is not None and np.shape(clusters) != (len(sums),):
        raise InputError(f"clusters say to which each of {len(sums)} pictures belongs, not {list(np.shape(clusters))}")


def _sum_by(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    summed = np.zeros((where.max() + 1, *values.shape[1:]))
    np.add.at(summed, where, values)
    return summed
