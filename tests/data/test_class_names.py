"""Classes by index and by name."""

import pytest
from variants import build

from vitlens import HookedViT, InputError


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
