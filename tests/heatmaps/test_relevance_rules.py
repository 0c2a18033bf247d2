"""The rules of relevance propagation: tiny examples by hand, and what they conserve."""

import pytest
import torch

from vitlens.heatmaps.shared.relevance_rules import add_rule, divide, linear_rule, matmul_rule


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(found, expected, tolerance=1e-9):
    assert (found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max())


def test_dividing_keeps_signs_and_says_nothing_of_zero():
    close(divide(numbers(1.0, 1.0, 1.0), numbers(2.0, -4.0, 0.0)), numbers(0.5, -0.25, 0.0))
    assert divide(numbers(1.0), numbers(-1e-9)).item() == pytest.approx(-0.5e9)


def test_linear_rule_by_hand():
    """x w: (2, 2) shared alike, (1, 2) as 1 to 2; (1, −2) goes to the first alone; (−1, −4) keeps its relevance."""
    x = numbers([1.0, -2.0])
    close(linear_rule(x, numbers([2.0, -1.0]), numbers([8.0])), numbers([4.0, 4.0]), 1e-8)
    close(linear_rule(x, numbers([1.0, -1.0]), numbers([3.0])), numbers([1.0, 2.0]), 1e-8)
    close(linear_rule(x, numbers([1.0, 1.0]), numbers([5.0])), numbers([5.0, 0.0]), 1e-8)
    close(linear_rule(x, numbers([-1.0, 2.0]), numbers([7.0])), numbers([0.0, 0.0]))
    both = numbers([2.0, -1.0], [-1.0, 2.0])
    close(linear_rule(x, both, numbers([8.0, 7.0])), numbers([4.0, 4.0]), 1e-8)


def test_linear_rule_conserves_relevance_that_has_a_positive_product():
    x, weight, relevance = random(2, 3, 8), random(5, 8, seed=1), random(2, 3, 5, seed=2)
    passed = linear_rule(x, weight, relevance)
    assert passed.shape == x.shape
    close(passed.sum(dim=-1), relevance.sum(dim=-1), 1e-7)


def test_add_rule_by_hand():
    """Fractions (3, ½) and (−2, ½), totals 3.5 and −1.5: of the 2 that come in, 7/10 and 3/10 go on."""
    first, second = add_rule([numbers([3.0, 1.0]), numbers([-2.0, 1.0])], numbers([1.0, 1.0]))
    close(first, numbers([1.2, 0.2]), 1e-8)
    close(second, numbers([0.8, -0.2]), 1e-8)


def test_add_rule_conserves_and_keeps_pictures_apart():
    terms, relevance = [random(3, 4, 5, seed=seed) for seed in range(3)], random(3, 4, 5, seed=9)
    parts = add_rule(terms, relevance)
    close(sum(part.sum(dim=(1, 2)) for part in parts), relevance.sum(dim=(1, 2)), 1e-7)
    for image in range(3):
        alone = add_rule([term[image : image + 1] for term in terms], relevance[image : image + 1])
        for part, single in zip(parts, alone, strict=True):
            close(part[image], single[0])


def test_matmul_rule_by_hand_and_conservation():
    left, right = matmul_rule(numbers([1.0, 2.0]), numbers([3.0], [4.0]), numbers([11.0]))
    close(left, numbers([1.5, 4.0]), 1e-8)
    close(right, numbers([1.5], [4.0]), 1e-8)
    relevance = random(2, 3, 5, seed=2)
    for part in matmul_rule(random(2, 3, 4), random(2, 4, 5, seed=1), relevance):
        close(part.sum(dim=(1, 2)), relevance.sum(dim=(1, 2)) / 2, 1e-6)


def test_nothing_comes_of_nothing():
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    assert not any(part.any() for part in add_rule([random(2, 3), random(2, 3, seed=1)], nothing))
    assert not linear_rule(random(2, 4), random(3, 4, seed=1), nothing).any()
    assert not any(part.any() for part in matmul_rule(random(2, 4), random(4, 3, seed=1), nothing))
