"""Reads the tensors and the configuration of a source: a module, a folder, or a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitlens.errors import InputError, reason
from vitlens.model.checkpoints.files import State, read_tensors
from vitlens.model.families.family import Config
from vitlens.model.families.huggingface.config import full_config
from vitlens.model.families.huggingface.preprocessing import full_preprocessor


@dataclass(frozen=True)
class OpenedSource:
    """Tensors by the names of their library, with its configuration; `name` is for messages and pages."""

    name: str
    state: State
    config: Config


def read_source(source: Any) -> OpenedSource:
    """The tensors of a module of another library, or of a folder or file of weights.

    Raises:
        InputError: neither of these, or a file that cannot be read without running what is in it.
    """
    if isinstance(source, nn.Module):
        return _read_module(source)
    if isinstance(source, (str, Path)):
        path = Path(source)
        return _read_folder(path) if path.is_dir() else OpenedSource(path.name, read_tensors(path), {})
    raise InputError(f"a source is a module, or the path of a folder or file of weights, not {type(source).__name__}")


def _read_module(module: nn.Module) -> OpenedSource:
    name = type(module).__name__
    if not hasattr(module, "config"):
        return OpenedSource(name, module.state_dict(), {})
    from transformers.core_model_loading import revert_weight_conversion

    # The names that released files have: transformers calls parts otherwise while a model is loaded.
    state = revert_weight_conversion(module, module.state_dict())  # type: ignore[arg-type]
    config: Any = module.config
    return OpenedSource(name, dict(state), config.to_dict() | {"architectures": [name]})


def _read_folder(folder: Path) -> OpenedSource:
    config = _read_json(folder / "config.json")
    if "model_type" in config:
        config = full_config(config, config["model_type"])
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        config["preprocessor"] = full_preprocessor(_read_json(preprocessor))
    return OpenedSource(folder.name, read_tensors(folder / "model.safetensors"), config)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} holds no {path.name}: name the file of weights in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {reason(error)}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds no configuration, but a {type(found).__name__}")
    return dict(found)
