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
            empty for a file without one).
        model_types: of Hugging Face's config.json, where the name tells the family.
        lacks: ends of names that none of its files has.
    """

    name: str
    marks: tuple[str, ...]
    read: Callable[[State, Config], Recipe]
    model_types: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def prefix_in(self, state: State) -> str | None:
        """What stands before the family's names in these tensors; None if they are of another family."""
        for key in state:
            if not key.endswith(self.marks[0]):
                continue
            prefix = key.removesuffix(self.marks[0])
            if prefix and not prefix.endswith("."):
                continue
            if all(prefix + mark in state for mark in self.marks) and not any(
                prefix + lack in state for lack in self.lacks
            ):
                return prefix
        return None


def without_prefix(state: State, prefix: str) -> State:
    """The tensors by their names without the prefix; those beside it (a classifier) keep theirs."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def looks_like(state: State, family: Family) -> int:
    """How many of the family's marks these tensors have."""
    return sum(any(re.search(rf"(^|\.){re.escape(mark)}$", key) for key in state) for mark in family.marks)
