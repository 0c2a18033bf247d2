"""The files of a dictionary at a path: each is read once, when it is asked for, and nothing in them is run."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.formats import read_tensors
from vitlens.model.weights.checks import check_plain

#: Files of settings: who names one of them means its folder.
SETTINGS_FILES = ("cfg.json", "config.json", "config.yaml", "config.yml")
ENDINGS = (".pt", ".pth", ".safetensors")
#: How the names of files end that hold statistics, and no weights.
NO_WEIGHTS = ("sparsity",)
HOW_TO_SAVE_SAE = "torch.save(sae.eval().state_dict(), path)"


class DictionaryFiles:
    """What a path names: a folder, or one file of weights in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.named = path if path.is_file() and path.name not in SETTINGS_FILES else None

    def holds(self, name: str) -> bool:
        """Whether a file of that name is in the folder, and no other file was named."""
        return (self.named is None or self.named.name == name) and (self.folder / name).is_file()

    @cached_property
    def all_weights(self) -> list[Path]:
        """The files of weights: the one that was named, else those in the folder."""
        if self.named is not None:
            return [self.named]
        found = (path for path in self.folder.iterdir() if path.suffix in ENDINGS)
        return sorted(path for path in found if not path.stem.endswith(NO_WEIGHTS))

    @property
    def weights(self) -> Path | None:
        """The file of weights; None where there are several, or none."""
        return self.all_weights[0] if len(self.all_weights) == 1 else None

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The tensors of the file of weights; empty where there is none."""
        return {} if self.weights is None else read_state(self.weights)

    def settings_file(self, *names: str) -> Path | None:
        """The first of these files of settings that is in the folder."""
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def settings(self, *names: str) -> dict[str, Any]:
        """What the first of these files says; empty where none is there."""
        path = self.settings_file(*names)
        return {} if path is None else read_settings(path)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file of JSON or YAML.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise InputError(f"{path} cannot be read as {kind}: {reason(error)}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{path} is not the settings of a dictionary, but a {type(found).__name__}")
    return dict(found)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a torch file that holds nothing else; nothing is unpickled.

    Raises:
        InputError: it is missing, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    how = f"save a state_dict with {HOW_TO_SAVE_SAE}, where it was made"
    return only_tensors(read_tensors(path, how_to_save=how), path)


def only_tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """Raises InputError unless this is a state_dict: tensors by their names."""
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} is no state_dict: save one with {HOW_TO_SAVE_SAE}")
    return dict(found)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is missing or something else.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} is no safetensors file ({reason(error)})") from None
    for name, tensor in found.items():
        check_plain(name, tensor, str(path))
    return found
