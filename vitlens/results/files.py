"""Converts the fields of a result to tensors and JSON for a file, and back to the same types."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlens.errors import InputError
from vitlens.results.axes import ComponentLabel, Label, NodeLabel, TokenLabel

#: Marks in the text for values that JSON does not have.
TUPLE, PAIRS, TENSOR, ARRAY, LABEL = MARKS = ("<tuple>", "<pairs>", "<tensor>", "<array>", "<label>")
LABELS = {kind.__name__: kind for kind in (TokenLabel, ComponentLabel, NodeLabel)}


def pack(fields: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a result by name, and the rest of its fields as JSON.

    Raises:
        InputError: a field holds something that no file keeps, such as a function; its place is named.
    """
    tensors: dict[str, Tensor] = {}
    rest = {}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            rest[name] = _pack(value, name, tensors)
    return tensors, json.dumps(rest)


def unpack(tensors: dict[str, Tensor], text: str) -> dict[str, Any]:
    """The fields that `pack` was given."""
    left = dict(tensors)
    fields = {name: _unpack(value, left) for name, value in json.loads(text).items()}
    return fields | left


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Label):
        return {LABEL: [type(value).__name__, *value.__getnewargs__()]}
    if value is None or isinstance(value, (bool, int, float, str)):
        # NumPy's numbers and texts become Python's.
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return _pack(value.item(), place, tensors)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value).removeprefix("torch.")
    if isinstance(value, (Tensor, np.ndarray)):
        tensors[place] = torch.as_tensor(value)
        return {TENSOR if isinstance(value, Tensor) else ARRAY: place}
    if isinstance(value, (set, frozenset)):
        return _pack(sorted(value, key=repr), place, tensors)
    if isinstance(value, (list, range)):
        return [_pack(item, f"{place}[{i}]", tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {TUPLE: _pack(list(value), place, tensors)}
    if isinstance(value, dict):
        pairs = [(name, _pack(item, f"{place}[{name!r}]", tensors)) for name, item in value.items()]
        if all(type(name) is str and name not in MARKS for name, _ in pairs):
            return dict(pairs)
        return {PAIRS: [[_pack(name, place, tensors), item] for name, item in pairs]}
    raise InputError(
        f"the result cannot be saved: {place} is a {type(value).__name__}, which no file keeps; take it out of a copy with "
        "dataclasses.replace first"
    )


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {TUPLE}:
        return tuple(_unpack(value[TUPLE], tensors))
    if value.keys() == {LABEL}:
        kind, *facts = value[LABEL]
        return LABELS[kind](*facts)
    if value.keys() == {TENSOR}:
        return tensors.pop(value[TENSOR])
    if value.keys() == {ARRAY}:
        return tensors.pop(value[ARRAY]).numpy()
    if value.keys() == {PAIRS}:
        return {_unpack(name, tensors): _unpack(item, tensors) for name, item in value[PAIRS]}
    return {name: _unpack(item, tensors) for name, item in value.items()}
