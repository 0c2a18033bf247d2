"""Reads one state dict from a file of weights, with the keys that the model uses.

A training run saves the weights under a name ("state_dict", "model", "teacher", …), together with their running average and
an optimiser, and often wrapped, so that every key begins with "module." or "model.". All of these are prefixes of dotted
keys: the weights of a vision transformer are under the prefix that has a block 0.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.checkpoints.formats import read_tensors

State = dict[str, Tensor]
# An attention of block 0; stems have blocks too, of convolutions.
BLOCK = re.compile(r"((?:.*?\.)?)blocks\.0\.(?:attns?|in_proj)\.")
# How running averages of weights are called. The teacher of self-distillation is its student's average.
AVERAGES = {"ema", "teacher", "averaged", "swa"}
# timm's own order, where a file holds several of a kind.
FIRST = ("state_dict_ema.", "model_ema.", "state_dict.", "model.")
# Towers that timm's conversions know by these keys.
CONVERTED = ("visual.", "module.visual.", "vision_encoder.", "radio_model.", "trunk.")
ADAPTERS = ("lora_", "base_layer", "modules_to_save", "hada_", "adapter_")
QUANTISED = ("absmax", "quant_map", "SCB", "qweight", "qzeros", "_packed_params", "bitsandbytes")


@dataclass(frozen=True)
class Weights:
    """One vision transformer in a file: where it stands, and the tensors around it."""

    prefix: str
    inner: str
    around: State

    @property
    def is_average(self) -> bool:
        return bool(AVERAGES & set(re.split(r"[._]", self.prefix)))

    def state(self) -> State:
        return {key.removeprefix(self.inner): value for key, value in self.around.items() if key.startswith(self.inner)}

    def left_out(self, others: "list[Weights]") -> list[str]:
        """The tensors around it that belong to no other model of the file."""
        known = (self.inner, *(other.inner for other in others if other.around is self.around))
        return [key for key in self.around if not key.startswith(known)]


def read_checkpoint(path: Path, use_ema: bool = True) -> State:
    """The weights that a file holds, by the keys that timm gives them. Nothing is unpickled.

    Args:
        use_ema: of a file with the weights and their running average take the average, as timm does.

    Raises:
        InputError: no file, something else than weights, several models, or an adapter whose weights are elsewhere.
    """
    dictionaries = state_dicts(read_tensors(path), path)
    found = [
        Weights(label + inner, inner, holder)
        for label, holder in dictionaries.items()
        for inner in dict.fromkeys(match[1] for match in map(BLOCK.match, holder) if match)
    ]
    if not found:
        # The names of the parts are not timm's, but timm may be able to convert them.
        state = clean_state_dict(dictionaries[min(dictionaries, key=_rank)])
        refuse_adapters(state, path)
        return state
    chosen = choose_weights(found, use_ema, path)
    refuse_adapters(chosen.around, path)
    if chosen.inner.startswith(CONVERTED):
        return chosen.around
    left = chosen.left_out(found)
    if left:
        warnings.warn(
            f"{path}: the weights under {chosen.prefix!r} are taken, and {', '.join(left[:3])} "
            f"{f'and {len(left) - 3} more ' if len(left) > 3 else ''}left out",
            stacklevel=5,
        )
    return chosen.state()


def state_dicts(found: Any, source: Path | str) -> dict[str, State]:
    """Every dictionary of tensors in what a file holds, by the keys that lead to it.

    Raises:
        InputError: there is none.
    """
    dictionaries = dict(_inside(found))
    if not dictionaries and isinstance(found, Mapping) and "param_groups" in found:
        raise InputError(f"{source} is the state of an optimiser: name the file of the model's weights")
    if not dictionaries:
        raise InputError(f"{source} holds no state dict of tensors: save model.state_dict() and nothing else")
    return dictionaries


def _inside(found: Any, label: str = "", depth: int = 3) -> Iterator[tuple[str, State]]:
    """Every dictionary of tensors among dictionaries, with the keys that lead to it; an optimiser's are numbers."""
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        return
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if tensors:
        yield label, tensors
    if depth:
        for key, value in found.items():
            yield from _inside(value, f"{label}{key}.", depth - 1)


def _rank(label: str) -> int:
    return FIRST.index(label) if label in FIRST else len(FIRST)


def choose_weights(found: list[Weights], use_ema: bool, path: Path | str) -> Weights:
    """The weights that are meant, of several in a file.

    Raises:
        InputError: several of one kind, or raw weights are asked for and only averaged ones are there.
    """
    averages = [weights for weights in found if weights.is_average]
    raw = [weights for weights in found if not weights.is_average]
    wanted = averages if use_ema and averages else raw
    if not wanted:
        raise InputError(
            f"{path} holds averaged weights alone ({', '.join(repr(weights.prefix) for weights in averages)}): "
            "leave use_ema=False away"
        )
    named = [[weights for weights in wanted if weights.prefix.startswith(first)] for first in FIRST]
    wanted = next((weights for weights in named if weights), wanted)
    if len(wanted) > 1:
        raise InputError(
            f"{path} holds several models, under {', '.join(repr(weights.prefix) for weights in wanted)}: save the state "
            "dict of the one that you mean"
        )
    others = [repr(weights.prefix) for weights in found if weights is not wanted[0]]
    if others:
        how = f" (use_ema={not use_ema} takes the others)" if averages and raw else ""
        warnings.warn(
            f"{path}: of several models the {'averaged ' if wanted[0].is_average else ''}weights under "
            f"{wanted[0].prefix!r} are taken, and not those under {', '.join(others)}{how}",
            stacklevel=6,
        )
    return wanted[0]


def refuse_adapters(state: State, path: Path | str) -> None:
    """Raises InputError for the tensors of an adapter, and for quantised ones."""
    for key, tensor in state.items():
        parts = key.split(".")
        if any(part.startswith(ADAPTERS) for part in parts):
            raise InputError(
                f"{path} holds an adapter (LoRA or alike: {key}): merge it into the weights first "
                "(model.merge_and_unload() of peft) and save the state dict of the merged model"
            )
        of_a_byte = tensor.ndim > 1 and tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
        if of_a_byte or parts[-1].startswith(QUANTISED):
            raise InputError(
                f"{path} holds quantised weights ({key}): save the state dict of the model as it was before"
            )


def first_keys(state: State) -> str:
    """The first keys of a state dict, for an error message."""
    return ", ".join(list(state)[:3]) + (", …" if len(state) > 3 else "")
