"""What is no set of tokens is refused in a sentence: bools are no numbers, and numbers are whole."""

import jaxtyping
import numpy as np
import pytest
import torch
from variants import build

from vitlens import HookedViT, InputError
from vitlens.choose import box, patch, select_tokens


@pytest.fixture(scope="module")
def small():
    return HookedViT.from_timm(build(depth=1))


@pytest.fixture
def unchecked():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def chosen(model, tokens, n_images=1):
    return select_tokens(model, tokens, n_images).nonzero().tolist()


def test_indices_and_bools(unchecked, small):
    some = torch.arange(10) % 3 == 0
    for tokens in (some, some.tolist(), some.numpy(), list(some), list(some.numpy()), some[None], tuple(some.tolist())):
        assert chosen(small, tokens) == [[0, 0], [0, 3], [0, 6], [0, 9]]
    indices = [0, 3, 6, -1]
    for tokens in (
        indices,
        tuple(indices),
        set(indices),
        torch.tensor(indices),
        torch.tensor(indices, dtype=torch.int32),
        np.array(indices),
        np.array([0, 3, 6, 9], dtype=np.uint16),
        [np.int64(0), torch.tensor(3), 6, 9],
    ):
        assert chosen(small, tokens) == [[0, 0], [0, 3], [0, 6], [0, 9]]
    assert chosen(small, range(2)) == [[0, 0], [0, 1]]
    for tokens in (9, -1, np.int64(9), torch.tensor(9), patch(2, 2), box(2, 2, 1, 1), patch(np.int64(2), 2)):
        assert chosen(small, tokens) == [[0, 9]]
    two = torch.zeros(2, 10, dtype=torch.bool)
    two[0, 1] = two[1, 2] = True
    assert chosen(small, two, 2) == chosen(small, two.numpy(), 2) == [[0, 1], [1, 2]]


def test_what_is_no_token_set(unchecked, small):
    for tokens, sentence in [
        (1.7, "whole numbers, not in torch.float"),
        ([0, 1.7], "not 1.7"),
        ([0, float("nan")], "not nan"),
        (["3"], "not '3'"),
        ([0, "class"], "not 'class'"),
        ("3", "no token set is called '3'"),
        ([0, True], "not True"),
        ([0, None], "not None"),
        (None, "not None"),
        ({}, "a name, an index"),
        (b"class", "a name, an index"),
        (torch.tensor([0.0, 1.0]), "not in torch.float32"),
        (np.array([0.5]), "not in torch.float64"),
        (np.array(["a"]), "a name, an index"),
        (torch.tensor([0, 1, 1], dtype=torch.uint8), "may mean bools or indices"),
        (np.array([0, 1, 1], dtype=np.uint8), "may mean bools or indices"),
        (torch.zeros(2, 3, dtype=torch.long), "the same for all pictures"),
        (torch.zeros(10, dtype=torch.bool, device="meta"), "dense"),
        ([True, False], "bool tensor is"),
        ([], "empty"),
        (True, "bool tensor is"),
        (10, "no token 10"),
        (-11, "no token -11"),
        (patch(0, 3), "outside the grid"),
    ]:
        with pytest.raises(InputError, match=sentence):
            select_tokens(small, tokens, 1)
    for make, sentence in [
        (lambda: patch(-1, 0), "row is a whole number of at least 0, not -1"),
        (lambda: patch(0.5, 0), "row is a whole number of at least 0, not 0.5"),
        (lambda: patch(True, 0), "row is a whole number of at least 0, not True"),
        (lambda: box(0, 0, 0, 1), "height is a whole number of at least 1, not 0"),
        (lambda: box(2, 2, -1, 1), "height is a whole number of at least 1, not -1"),
    ]:
        with pytest.raises(InputError, match=sentence):
            make()
