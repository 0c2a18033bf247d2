"""Classes by index and by name."""

import warnings

import numpy as np
import pytest
import torch
from variants import build

from vitlens import HookedViT, InputError
from vitlens.data.class_names import check_class_names, find_class, read_class_names


@pytest.fixture(scope="module")
def imagenet():
    return HookedViT.from_timm(build(num_classes=1000))


@pytest.mark.parametrize("wanted", [281, "281", "tabby", "tabby cat", "Tabby, tabby cat", " TABBY "])
def test_one_class_many_ways(imagenet, wanted):
    assert imagenet.class_index(wanted) == 281
    assert imagenet.class_label(281) == "tabby, tabby cat"


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("taby", "nearest names are.*tabby"),
        ("cat", "nearest names are tabby cat, tiger cat, persian cat, siamese cat, egyptian cat"),
        ("terrier", "nearest names are (.* terrier, ){7}.*terrier$"),
        ("retriev", "nearest names are .*golden retriever"),
        ("crane", "2 classes are called 'crane'.*134 or 517"),
        (1000, "classes 0 to 999"),
        (-1, "classes 0 to 999"),
        ("-3", "classes 0 to 999"),
        ("--3", "no class is called '--3'"),
        ("²", "no class is called '²'"),
        ("", "no class is called ''"),
    ],
)
def test_classes_that_do_not_exist(imagenet, wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        imagenet.class_index(wanted)


def test_models_without_names_or_classes():
    nameless = HookedViT.from_timm(build())
    assert nameless.class_names is None
    assert nameless.class_label(3) == "class 3"
    with pytest.raises(InputError, match="no class names"):
        nameless.class_index("tabby")
    with pytest.raises(InputError, match="no classifier"):
        HookedViT.from_timm(build(num_classes=0)).class_index(0)


def test_classes_that_are_called_by_numbers(unchecked):
    """A text is a name first; where it is the index of another class too, a warning names both."""
    grades = ["1", "2", "3", "4", "5"]
    with pytest.warns(UserWarning, match=r"'3' is taken for the name of class 2, not for the index of class 3 \('4'\)"):
        assert find_class("3", grades, 5) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_class("5", grades, 5) == 4
        assert (
            find_class(3, grades, 5)
            == find_class(np.int64(3), grades, 5)
            == find_class(torch.tensor(3), grades, 5)
            == 3
        )
        assert find_class("0", grades, 5) == 0
        assert find_class("1", ["0", "1"], 2) == 1
        assert find_class("2021", ["2020", "2021"], 2) == 1
        assert find_class("1", ["2020", "2021"], 2) == 1
    with pytest.raises(InputError, match="no class 6"):
        find_class("6", grades, 5)


@pytest.mark.parametrize(
    "wanted", [True, np.True_, torch.tensor(True), 1.0, 1.9, np.float64(1), torch.tensor(1.0), None, [1]]
)
def test_what_is_no_class(unchecked, wanted):
    with pytest.raises(InputError, match="a whole number, or by its name"):
        find_class(wanted, ["a", "b"], 2)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("ab", "a list of strings, one per class, not str"),
        (None, "not NoneType"),
        (3, "not int"),
        ({"a": 0, "b": 1}, "not dict"),
        (["a", None], "class 1 is None"),
        (["a", 2], "class 1 is 2"),
        (["a", " "], "class 1 is ' '"),
        (["a"], "1 class names were given for 2 classes"),
    ],
)
def test_what_is_no_list_of_names(unchecked, names, sentence):
    with pytest.raises(InputError, match=sentence):
        check_class_names(names, 2)
    if names is not None:
        with pytest.raises(InputError, match=sentence):
            HookedViT.from_timm(build(depth=1, num_classes=2), class_names=names)


def test_names_in_files(tmp_path):
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "names.txt").write_bytes(start + "chat, félin\r\nchien\n".encode())
        assert read_class_names(tmp_path / "names.txt", 2) == ["chat, félin", "chien"]
    (tmp_path / "names.txt").write_bytes("chat\nchien\n".encode("utf-16"))
    with pytest.raises(InputError, match="cannot be read as class names"):
        read_class_names(tmp_path / "names.txt", 2)
    with pytest.raises(InputError, match="cannot be read"):
        read_class_names(tmp_path, 2)
