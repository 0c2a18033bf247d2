"""Class names: finds those of a model, and the class of an index or a name."""

import operator
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from vitlens.arguments import is_whole, short
from vitlens.errors import InputError, nearest, reason

NUMBER = re.compile(r"\s*-?\d+\s*")


def infer_class_names(module: nn.Module, n_classes: int) -> list[str] | None:
    """The names that timm saved with the weights, or its ImageNet names where there are as many classes, else None.

    A classifier that was replaced by hand has its own classes; `module.num_classes` is then still the old number.
    """
    if not n_classes or getattr(module, "num_classes", None) != n_classes:
        return None
    label_names = (getattr(module, "pretrained_cfg", None) or {}).get("label_names")
    if isinstance(label_names, dict):
        by_index = {int(index): name for index, name in label_names.items()}
        label_names = [by_index[i] for i in range(n_classes)] if set(by_index) == set(range(n_classes)) else None
    if label_names and len(label_names) == n_classes:
        return list(label_names)
    subset = infer_imagenet_subset({"num_classes": n_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(info.num_classes())]


def read_class_names(path: Path, n_classes: int) -> list[str]:
    """Class names from a text file, one per line; a byte order mark at the start is ignored.

    Raises:
        InputError: no such file, or not one name for each class.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as class names: {reason(error)}") from None
    if len(names) != n_classes or not all(name.strip() for name in names):
        raise InputError(
            f"{path} has {len(names)} lines, and the model {n_classes} classes: one name per line is expected"
        )
    return [name.strip() for name in names]


def check_class_names(names: Any, n_classes: int) -> list[str]:
    """A list of names, one for each class. Two classes may have the same name, as ImageNet's cranes have; `find_class` then
    names both.

    Raises:
        InputError: no list, something in it that is no name, or not one for each class.
    """
    chosen = as_names(names)
    if len(chosen) != n_classes:
        raise InputError(f"{len(chosen)} class names were given for {n_classes} classes")
    return chosen


def as_names(names: Any) -> list[str]:
    """Raises InputError unless `names` is a list of strings."""
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise InputError(f"class names are a list of strings, one per class, not {type(names).__name__}")
    chosen = list(names)
    for index, name in enumerate(chosen):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"class names are a list of strings, and that of class {index} is {name!r}")
    return chosen


def find_class(wanted: int | str | np.integer, names: Sequence[str] | None, n_classes: int) -> int:
    """The index of a class given by index or by name; one of a class's synonyms ("tabby") is enough.

    A number is an index. A text is a name, or an index if no class has that name and it is a number. If a text is the name
    of one class and the index of another, as with classes that are named by numbers, the name counts, and a warning names
    both.

    Raises:
        InputError: no class, or more than one, is called so; or the index is out of range; or it is neither index nor name.
    """
    if n_classes == 0:
        raise InputError("this model has no classifier, so it has no classes")
    if not isinstance(wanted, str):
        return _in_range(_whole_number(wanted), n_classes)
    found = [] if names is None else named(wanted, names)
    number = int(wanted) if NUMBER.fullmatch(wanted) else None
    if len(found) > 1:
        raise InputError(
            f"{len(found)} classes are called {wanted!r}: say which by index, {' or '.join(map(str, found))}"
        )
    if found:
        if number is not None and number != found[0] and 0 <= number < n_classes and names is not None:
            warnings.warn(
                f"{wanted!r} is taken for the name of class {found[0]}, not for the index of class {number} "
                f"({names[number]!r}): in Python, the number {number} without quotes is the index",
                stacklevel=3,
            )
        return found[0]
    if number is not None:
        return _in_range(number, n_classes)
    if names is None:
        raise InputError(
            f"this model has no class names, so {wanted!r} cannot be looked up: "
            f"give the index (0 to {n_classes - 1}), or class_names= when the model is loaded"
        )
    raise InputError(f"no class is called {wanted!r}; the nearest names are {_near(wanted.strip().casefold(), names)}")


def _near(wanted: str, names: Sequence[str]) -> str:
    """Names that contain the word ("cat": tabby cat, tiger cat, …), else its letters, else names of similar spelling."""
    synonyms = list(dict.fromkeys(synonym for name in names for synonym in _synonyms(name)))
    with_word = [synonym for synonym in synonyms if re.search(rf"\b{re.escape(wanted)}\b", synonym)]
    holding = with_word or [synonym for synonym in synonyms if len(wanted) > 2 and wanted in synonym]
    return ", ".join(holding[:8]) if wanted and holding else nearest(wanted, synonyms)


def named(wanted: str, names: Sequence[str]) -> list[int]:
    """The classes of this name, or else of this synonym."""
    key = wanted.strip().casefold()
    found = [i for i, name in enumerate(names) if name.strip().casefold() == key]
    return found or [i for i, name in enumerate(names) if key in _synonyms(name)]


def _whole_number(wanted: Any) -> int:
    if not is_whole(wanted):
        raise InputError(f"a class is given by its index, a whole number, or by its name, not by {short(wanted)}")
    return operator.index(wanted)


def _in_range(index: int, n_classes: int) -> int:
    if not 0 <= index < n_classes:
        raise InputError(f"there is no class {index}: the model has classes 0 to {n_classes - 1}")
    return index


def _synonyms(name: str) -> list[str]:
    return [synonym.strip().casefold() for synonym in name.split(",")]


def short_name(name: str) -> str:
    """The first synonym: "tabby, tabby cat" → "tabby"."""
    return name.split(",")[0].strip()
