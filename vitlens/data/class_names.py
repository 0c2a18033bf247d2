"""Class names: where they come from, and how a user may say a class."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from vitlens.errors import InputError, nearest


def infer_class_names(module: nn.Module, n_classes: int) -> list[str] | None:
    """The names that timm saved with the weights, or its ImageNet names where there are as many classes, else None.

    A classifier that was put in by hand has classes of its own: `module.num_classes` then is what it was before.
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
    """Class names from a text file, one per line.

    Raises:
        InputError: no such file, or not one name for each class.
    """
    try:
        names = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as class names: {error}") from None
    if len(names) != n_classes or not all(name.strip() for name in names):
        raise InputError(
            f"{path} has {len(names)} lines, and the model {n_classes} classes: one name per line is expected"
        )
    return [name.strip() for name in names]


def find_class(wanted: int | str | np.integer, names: Sequence[str] | None, n_classes: int) -> int:
    """The index of a class given by index or by name; one of a class's synonyms ("tabby") is enough.

    Raises:
        InputError: no class, or more than one, is called so; or the index is out of range.
    """
    if n_classes == 0:
        raise InputError("this model has no classifier, so it has no classes")
    if not isinstance(wanted, str) or re.fullmatch(r"\s*-?\d+\s*", wanted):
        wanted = int(wanted)
        if not 0 <= wanted < n_classes:
            raise InputError(f"there is no class {wanted}: the model has classes 0 to {n_classes - 1}")
        return wanted
    if names is None:
        raise InputError(
            f"this model has no class names, so {wanted!r} cannot be looked up: "
            f"give the index (0 to {n_classes - 1}), or class_names= when the model is loaded"
        )
    key = wanted.strip().casefold()
    found = [i for i, name in enumerate(names) if name.casefold() == key]
    found = found or [i for i, name in enumerate(names) if key in _synonyms(name)]
    if not found:
        synonyms = {synonym: None for name in names for synonym in _synonyms(name)}
        raise InputError(f"no class is called {wanted!r}; the nearest names are {nearest(key, synonyms)}")
    if len(found) > 1:
        raise InputError(
            f"{len(found)} classes are called {wanted!r}: say which by index, {' or '.join(map(str, found))}"
        )
    return found[0]


def _synonyms(name: str) -> list[str]:
    return [synonym.strip().casefold() for synonym in name.split(",")]


def short_name(name: str) -> str:
    """The first synonym: "tabby, tabby cat" → "tabby"."""
    return name.split(",")[0].strip()
