"""Translates the names of a library's tensors into timm's, by a table of names."""

import re
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from vitlens.model.checkpoints.files import State


def translate(state: State, names: Mapping[str, str]) -> tuple[State, State]:
    """The tensors by timm's names, and those that the table does not name.

    Args:
        names: a part of theirs → the same part of timm's. "{i}" is a number. "part#0", "part#1", … are joined along their
            first axis, as timm joins q, k and v; a bias that one of them has in no block is zero. A
            tensor of which any other piece is missing is left out, so that it is missed when the model is built.
    """
    rules = [(_pattern(theirs), *ours.replace("{i}", r"\g<i>").partition("#")) for theirs, ours in names.items()]
    n_pieces = Counter(part for _, part, joins, _ in rules if joins)
    found: State = {}
    rest: State = {}
    joined: dict[str, list[Tensor | None]] = {}
    for key, tensor in state.items():
        named = ((match, rule) for rule in rules if (match := rule[0].fullmatch(key)))
        match, (_, part, joins, piece) = next(named, (None, rules[0]))
        if match is None:
            rest[key] = tensor
            continue
        name = match.expand(part) + (match["tensor"] or "")
        if joins:
            joined.setdefault(name, [None] * n_pieces[part])[int(piece)] = tensor
        else:
            found[name] = tensor
    present = {
        (of_any_block(name), i)
        for name, pieces in joined.items()
        for i, piece in enumerate(pieces)
        if piece is not None
    }
    for name, pieces in joined.items():
        missing = {(of_any_block(name), i) for i, piece in enumerate(pieces) if piece is None}
        if missing and (not name.endswith(".bias") or missing & present):
            continue
        like = next(tensor for tensor in pieces if tensor is not None)
        found[name] = torch.cat([torch.zeros_like(like) if tensor is None else tensor for tensor in pieces])
    return found, rest


def leave_out(rest: State, unused: tuple[str, ...]) -> tuple[State, tuple[str, ...]]:
    """The tensors without those whose names begin so, and the names of these."""
    left = tuple(key for key in rest if key.startswith(unused))
    return {key: tensor for key, tensor in rest.items() if key not in left}, left


def of_any_block(name: str) -> str:
    """The name without the number of its block."""
    return re.sub(r"\d+", "{i}", name)


def _pattern(theirs: str) -> re.Pattern[str]:
    return re.compile(re.escape(theirs).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<tensor>\.(?:weight|bias))?")
