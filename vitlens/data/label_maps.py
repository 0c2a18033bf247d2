"""Matches the labels of a data set with the classes of a model: by name, by number, or by a map that the user gives."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from timm.data import ImageNetInfo
from timm.utils.misc import natural_key

from vitlens.data.class_names import find_class, named
from vitlens.errors import InputError, reason


def match_classes(
    label_names: list[str] | None, class_names: Sequence[str] | None, n_classes: int, are_folders: bool
) -> list[int] | None:
    """The model's class of each label of the data set; None where they are the same numbers."""
    if label_names is None:
        return None
    found = _by_name(label_names, class_names, n_classes)
    if found is not None:
        return found
    are_numbers = all(name.isdecimal() for name in label_names)
    if are_numbers and (class_names is not None or not are_folders or max(map(int, label_names)) < n_classes):
        return [int(name) for name in label_names]
    if len(label_names) == n_classes and class_names is None:
        if not are_folders:
            return None
        order = sorted(label_names, key=natural_key)
        return [order.index(name) for name in label_names]
    raise InputError(
        f"the data set's {len(label_names)} labels ({', '.join(label_names[:3])}, …) are not the names of the model's "
        f"{n_classes} classes: say which is which with class_map="
    )


def _by_name(label_names: list[str], class_names: Sequence[str] | None, n_classes: int) -> list[int] | None:
    """By WordNet ids or by the model's own names, if that finds one class for each label."""
    if n_classes == 1000 and all(name.startswith("n") and name[1:].isdigit() for name in label_names):
        info = ImageNetInfo()
        index = {info.index_to_label_name(i): i for i in range(1000)}
        if all(name in index for name in label_names):
            return [index[name] for name in label_names]
    if class_names is None:
        return None
    # Folders are often named with "_" where the class's name has a space.
    found = [named(name, class_names) or named(name.replace("_", " "), class_names) for name in label_names]
    if all(len(classes) == 1 for classes in found):
        return [classes[0] for classes in found]
    if any(found) and all(name.isdecimal() for name in label_names):
        i = next(i for i, classes in enumerate(found) if len(classes) != 1)
        raise InputError(
            f"some of the data set's labels are names of the model's classes and {label_names[i]!r} is not, so it is not "
            "clear whether they are names or numbers of classes: say which is which with class_map="
        )
    return None


def read_class_map(path: Path, label_names: list[str] | None, class_names: Sequence[str] | None, n_classes: int) -> Any:
    try:
        if path.suffix == ".json":
            pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
        else:
            frame = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", keep_default_na=False)
            pairs = list(zip(frame[0], frame[1], strict=True))
        table = {str(key): value for key, value in pairs}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is no map from labels to classes (JSON object or two-column CSV): {reason(error)}"
        ) from None
    if len(table) < len(pairs):
        keys = [str(key) for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"{path} says twice which class {twice!r} is")
    found = {key: find_class(value, class_names, n_classes) for key, value in table.items()}
    if label_names is None:
        return found
    missing = [name for name in label_names if name not in found]
    if missing:
        raise InputError(f"{path} does not say which class {missing[0]!r} is (and {len(missing) - 1} more)")
    return [found[name] for name in label_names]


def to_index(label: Any, to_class: Any, n_classes: int, where: str) -> int:
    if isinstance(to_class, dict):
        if str(label) not in to_class:
            raise InputError(f"the class map does not say which class the label {label!r} of {where} is")
        index = to_class[str(label)]
    elif isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise InputError(f"the label {label!r} of {where} is no whole number: say which class is which with class_map=")
    elif to_class is not None and not 0 <= label < len(to_class):
        raise InputError(f"the label {label} of {where} is none of the data set's {len(to_class)} labels")
    else:
        index = int(label) if to_class is None else to_class[label]
    if not 0 <= index < n_classes:
        raise InputError(
            f"the label {index} of {where} is none of the model's classes 0 to {n_classes - 1}: pass the model that these "
            "labels belong to, or a class map"
        )
    return index


def index_in_name(path: str) -> int:
    start = Path(path).name.split("_")[0]
    if not start.isdecimal():
        raise InputError(
            f"{path} has no label: put each class's pictures in a folder of its own, or begin file names with the class's "
            "index and an underscore (0042_x.jpg)"
        )
    return int(start)
