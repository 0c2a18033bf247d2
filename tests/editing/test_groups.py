"""Groups of pictures: every way to give them, and what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from vitlens import InputError
from vitlens.demo import load_demo_model, load_demo_pictures
from vitlens.editing import Groups, propose_groups, read_groups

GIVEN = {
    "names": ["b", "a", "b"],
    "array": np.array(["b", "a", "b"]),
    "column": pd.Series(["b", "a", "b"], index=[7, 8, 9]),
    "categories": pd.Series(["b", "a", "b"]).astype("category"),
}
NUMBERS = {
    "list": [3, 0, 3],
    "tensor": torch.tensor([3, 0, 3]),
    "small tensor": torch.tensor([3, 0, 3], dtype=torch.uint8),
    "array": np.array([3, 0, 3]),
    "column": pd.Series([3, 0, 3]),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_names_come_in_the_order_in_which_they_appear(kind):
    groups = read_groups(GIVEN[kind], 3)
    assert groups.names == ["b", "a"]
    assert groups.of_image.tolist() == [0, 1, 0]


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_names_too(kind):
    groups = read_groups(NUMBERS[kind], 3)
    assert groups.names == ["3", "0"]
    assert groups.where("0").tolist() == [False, True, False]
    assert groups.counts() == {"3": 2, "0": 1}


def test_groups_that_were_read_are_read_again():
    groups = read_groups(["b", "a", "b"], 3)
    again = read_groups(groups, 3)
    assert again.names == groups.names
    assert torch.equal(again.of_image, groups.of_image)
    # A group that no picture is in has no place of its own.
    assert read_groups(Groups(["x", "b", "a"], torch.tensor([2, 1])), 2).names == ["a", "b"]


WRONG = {
    "text": ("ab", "the group of each picture"),
    "truths": ([True, False], "the group of each picture"),
    "a tensor of truths": (torch.tensor([True, False]), "the group of each picture"),
    "parts": (np.array([0.5, 1.0]), "the group of each picture"),
    "missing": (pd.Series(["a", None]), "the group of each picture"),
    "blank": (["a", " "], "the group of each picture"),
    "a table": (np.zeros((2, 2), dtype=int), "the group of each picture"),
    "too many": (["a", "b", "a"], "3 groups were given for 2 pictures"),
    "one": (["a", "a"], "all pictures are in the group 'a'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_groups_is_refused(kind):
    given, said = WRONG[kind]
    with pytest.raises(InputError, match=said):
        read_groups(given, 2)


def test_a_group_of_one_picture_has_no_interval():
    groups = read_groups(["a", "b", "a"], 3)
    with pytest.raises(InputError, match="the group 'b' has a single picture"):
        groups.require_intervals()
    read_groups([0, 1, 0, 1], 4).require_intervals()
    with pytest.raises(InputError, match="no group is called 'c'"):
        groups.where("c")


@pytest.fixture(scope="module")
def demo():
    model = load_demo_model()
    return model, load_demo_pictures(model)


def test_proposed_groups_are_mostly_right(demo):
    model, pictures = demo
    proposed = propose_groups(model, pictures.images, pictures.labels, masks=pictures.masks)
    truth = ["agreeing", "conflicting"] * 50
    clear = [(one, other) for one, other in zip(proposed, truth, strict=True) if one != "neutral"]
    assert len(clear) >= 85
    assert np.mean([one == other for one, other in clear]) > 0.9
    of_files = propose_groups(model, pictures.paths, pictures.labels, masks=pictures.masks, batch_size=7)
    assert sum(one == other for one, other in zip(proposed, of_files, strict=True)) >= 99


def test_few_pictures_propose_no_groups(demo):
    model, pictures = demo
    with pytest.raises(InputError, match="there are 4"):
        propose_groups(model, pictures.images[:4], pictures.labels[:4], masks=pictures.masks[:4])
