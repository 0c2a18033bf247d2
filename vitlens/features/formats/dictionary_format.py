"""What a format of dictionaries is: how its files are recognised, how they are read, and what they do not say themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.formats.opened import DictionaryFiles


@dataclass(frozen=True)
class LoadOptions:
    """What the caller of `load_sae` says of a dictionary; None where it is left to its files."""

    activation: str | None = None
    k: int | None = None
    threshold: Tensor | float | None = None
    dictionary_norm: str | None = None
    scaling_factor: float | None = None
    centred: bool | None = None
    dtype: torch.dtype | None = None

    def given(self) -> list[str]:
        """The names of what is said of the dictionary itself."""
        return [name for name, value in vars(self).items() if value is not None and name != "dtype"]


@dataclass(frozen=True)
class DictionaryFormat:
    """One library's files of dictionaries.

    Args:
        name: the library, as users call it.
        layout: what its files look like, in a few words.
        recognise: whether these files are of this format, by marks that no other format has.
        read: the dictionary; raises InputError for whatever it cannot carry exactly.
        asks: the arguments of `load_sae` that say what its files may lack.
    """

    name: str
    layout: str
    recognise: Callable[[DictionaryFiles], bool]
    read: Callable[[DictionaryFiles, LoadOptions], SparseAutoencoder | CrossLayerTranscoder]
    asks: tuple[str, ...] = ()


def chosen(name: str, of_file: Any, options: LoadOptions, source: str) -> Any:
    """What the file says of the dictionary, or what the caller says where the file does not.

    Raises:
        InputError: both say it, and not the same.
    """
    said = getattr(options, name)
    if of_file is None or said is None or said == of_file:
        return said if of_file is None else of_file
    raise InputError(f"{source} says that {name} is {of_file!r}, not {said!r}: leave {name}= out")
