"""The comparison of two groups of pictures by many quantities: against its definition, and by how often it errs."""

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel

from vitlens import InputError
from vitlens.statistics import compare_groups

INSIDE = np.arange(30) % 3 == 0


def test_p_values_are_those_of_the_largest_statistic_of_shuffles():
    values = np.random.default_rng(0).normal(size=(30, 4, 2)) * [1.0, 50.0]
    values[INSIDE, 0, 1] += 100
    found = compare_groups(values, INSIDE, n_draws=2000)
    np.testing.assert_allclose(found.difference, values[INSIDE].mean(0) - values[~INSIDE].mean(0), rtol=1e-12)
    generator = np.random.default_rng(5)
    shuffled = []
    for _ in range(2000):
        drawn = generator.permutation(INSIDE)
        shuffled.append(values[drawn].mean(0) - values[~drawn].mean(0))
    spread = np.std(shuffled, axis=0)
    largest = np.abs(shuffled / spread).max(axis=(1, 2))
    expected = (largest[:, None, None] >= np.abs(found.difference / spread)).mean(axis=0)
    np.testing.assert_allclose(found.p, expected, atol=0.05)
    assert found.p[0, 1] < 0.05
    alone = compare_groups(values[:, 2, 0], INSIDE, n_draws=2000)
    np.testing.assert_allclose(alone.p, ttest_ind(values[INSIDE, 2, 0], values[~INSIDE, 2, 0]).pvalue, atol=0.03)


def test_intervals_cover_the_difference():
    generator = np.random.default_rng(1)
    covered = []
    for seed in range(60):
        values = generator.normal(size=(60, 3))
        inside = np.arange(60) < 20
        values[inside] += 1
        found = compare_groups(values, inside, n_draws=200, seed=seed)
        covered.append((found.low < 1) & (found.high > 1))
    assert 0.88 < np.mean(covered) < 0.99


def test_pairs_are_compared_within_themselves():
    generator = np.random.default_rng(2)
    pair, inside = np.repeat(np.arange(20), 2), np.arange(40) % 2 == 0
    values = generator.normal(size=20)[pair] * 10 + generator.normal(size=40) + 0.9 * inside
    paired = compare_groups(values, inside, clusters=pair, n_draws=2000)
    loose = compare_groups(values, inside, n_draws=2000)
    np.testing.assert_allclose(paired.p, ttest_rel(values[inside], values[~inside]).pvalue, atol=0.02)
    assert paired.p < 0.05 < loose.p
    assert paired.high - paired.low < (loose.high - loose.low) / 3
    # Clusters that lie in one group count as one picture each.
    repeated = np.repeat(generator.normal(size=12), 5)
    of_one = np.repeat(np.arange(12), 5)
    assert compare_groups(repeated, of_one < 6, clusters=of_one).p > compare_groups(repeated, of_one < 6).p


@pytest.mark.parametrize("clusters", [None, "pairs", "whole"])
def test_where_nothing_differs_a_finding_is_rare(clusters):
    """One in twenty draws of the data has any p ≤ 0.05, although each has twelve quantities."""
    generator = np.random.default_rng(3)
    belongs = {None: None, "pairs": np.arange(24) // 2, "whole": np.arange(24) // 4}[clusters]
    inside = np.arange(24) // 4 % 2 == 0 if clusters == "whole" else np.arange(24) % 2 == 0
    found = []
    for seed in range(200):
        values = generator.normal(size=(24, 12))
        if belongs is not None:
            values = values + generator.normal(size=(24, 12))[belongs]
        found.append((compare_groups(values, inside, clusters=belongs, n_draws=99, seed=seed).p <= 0.05).any())
    # Six whole clusters have but ten ways to be split in two.
    assert np.mean(found) < 0.1
    assert clusters == "whole" or np.mean(found) > 0.01


def test_what_does_not_vary_does_not_differ():
    values = np.stack([np.full(30, 0.1), np.arange(30.0)], axis=1)
    found = compare_groups(values, INSIDE)
    assert found.p[0] == 1
    assert abs(found.difference[0]) < 1e-15
    single = compare_groups(values, np.arange(30) == 0)
    assert np.isnan([single.low, single.high]).all()


def test_many_quantities_are_compared_part_by_part(monkeypatch):
    values = np.random.default_rng(4).normal(size=(30, 11))
    whole = compare_groups(values, INSIDE, n_draws=130)
    monkeypatch.setattr("vitlens.statistics.COLUMNS_AT_ONCE", 3)
    for one, other in zip(whole, compare_groups(values, INSIDE, n_draws=130), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


WRONG = [
    ({"values": np.array([1.0, np.nan, 2.0])}, "finite numbers"),
    ({"inside": np.array([True, True, True])}, "neither is empty"),
    ({"inside": np.array([1, 0, 0])}, "True or False"),
    ({"inside": np.array([True, False])}, "True or False"),
    ({"clusters": np.array([0, 1])}, "clusters say"),
    ({"level": 1.0}, "level"),
    ({"n_draws": 0}, "n_draws"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_wrong_groups_are_refused(given, said):
    fine = {"values": np.array([1.0, 2.0, 4.0]), "inside": np.array([True, False, False])}
    with pytest.raises(InputError, match=said):
        compare_groups(**fine | given)
