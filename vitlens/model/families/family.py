"""A family: files of weights of one library and kind, recognised from the names of their tensors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vitlens.model.checkpoints.files import State
from vitlens.model.families.recipe import Recipe

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One kind of weights.

    Args:
        name: as users call it: "Hugging Face ViT".
        marks: ends of the names of tensors that all its files have; what stands before the first is the prefix of a wrapper.
        read: the recipe, from the tensors without that prefix, and the configuration (all of its values, defaults too;
            of a module without one what `module_settings` reads, with the module as "module"; empty for a file).
        model_types: of Hugging Face's config.json, where the name tells the family.
        lacks: ends of names that none of its files has.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[State, Config], Recipe]
    model_types: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def prefixes_in(self, state: State) -> list[str]:
        """What stands before the family's names in these tensors; nothing if they are of another family."""
        prefixes = (key.removesuffix(self.marks[0]) for key in state if key.endswith(self.marks[0]))
        return [
            prefix
            for prefix in prefixes
            if (not prefix or prefix.endswith("."))
            and all(prefix + mark in state for mark in self.marks)
            and not any(prefix + lack in state for lack in self.lacks)
        ]


def without_prefix(state: State, prefix: str) -> State:
    """The tensors by their names without the prefix, or the part of it that they have.

    A classifier beside the model keeps its name: of "model.vit.", "model.classifier.weight" loses "model.".
    """
    parts = prefix.split(".")[:-1]
    shared = [".".join(parts[:n]) + "." for n in range(len(parts), 0, -1)]
    return {
        key.removeprefix(next((part for part in shared if key.startswith(part)), "")): tensor
        for key, tensor in state.items()
    }


def looks_like(state: State, family: Family) -> int:
    """How many of the family's marks these tensors have."""
    return sum(any(re.search(rf"(^|\.){re.escape(mark)}$", key) for key in state) for mark in family.marks)
