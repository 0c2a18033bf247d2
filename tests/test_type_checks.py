"""What finds wrong types and shapes in all other tests: it checks functions and dataclasses, as often as it is told."""

from dataclasses import dataclass

import jaxtyping
import lazy_checks
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, TypeCheckError
from lazy_checks import limit
from torch import Tensor

from vitlens import statistics

checked = jaxtyping.jaxtyped(typechecker=beartype)


@checked
def add(one: Float[Tensor, "row column"], other: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    return one + other


@checked
@dataclass(frozen=True)
class Pair:
    one: Float[Tensor, "row"]
    other: Float[Tensor, "row"]


def test_functions_of_vitlens_are_checked():
    assert statistics.bootstrap.__code__.co_filename == lazy_checks.__file__


@pytest.mark.all_types
def test_wrong_shapes_are_found():
    assert add(torch.ones(2, 3), torch.ones(2, 3)).sum() == 12
    with pytest.raises(TypeCheckError):
        add(torch.ones(2, 3), torch.ones(1, 3))
    assert len(Pair(torch.ones(2), torch.ones(2)).one) == 2
    with pytest.raises(TypeCheckError):
        Pair(torch.ones(2), torch.ones(3))


def test_the_first_calls_of_a_test_are_checked():
    for _ in range(2):
        limit.begin_test(2)
        add(torch.ones(2, 3), torch.ones(2, 3))
        with pytest.raises(TypeCheckError):
            add(torch.ones(2, 3), torch.ones(1, 3))
        assert add(torch.ones(2, 3), torch.ones(1, 3)).shape == (2, 3)


def test_functions_that_are_defined_again_are_checked_a_few_times():
    def define():
        @checked
        def double(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
            return 2 * value

        return double

    limit.begin_test(1)
    found = [hasattr(define(), "__wrapped__") for _ in range(lazy_checks.DEFINED_AGAIN + 2)]
    assert found == [True] * lazy_checks.DEFINED_AGAIN + [False] * 2
