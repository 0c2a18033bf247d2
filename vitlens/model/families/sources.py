"""Reads the tensors and the configuration of a source: a module, a folder, a file, a state dict, or a repository."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from vitlens.errors import InputError, nearest
from vitlens.model.checkpoints.formats import read_json, read_tensors
from vitlens.model.checkpoints.timm_models import WEIGHT_FILES, weights_in
from vitlens.model.families.family import Config
from vitlens.model.families.hub import REPOSITORY, fetch_repository
from vitlens.model.families.huggingface.config import full_config
from vitlens.model.families.huggingface.preprocessing import full_preprocessor
from vitlens.model.families.module_settings import read_module_settings
from vitlens.model.families.open_clip.settings import settings_of_file, settings_of_module


@dataclass(frozen=True)
class OpenedSource:
    """Tensors by the names of their library, and its configuration.

    Args:
        name: for messages and pages.
        tensors: a state dict, or what a training run saved around it.
        config: Hugging Face's, with its defaults; of other modules what `read_module_settings` reads; of files nothing.
        is_folder: the configuration was saved with the tensors. Of a module that lost blocks it may still count them.
    """

    name: str
    tensors: Any
    config: Config
    is_folder: bool = False


def read_source(source: Any) -> OpenedSource:
    """The tensors of a module of another library, of a folder or file of weights, or of a repository of the hub.

    Raises:
        InputError: none of these, or a file that cannot be read without running what is in it.
    """
    if isinstance(source, nn.Module):
        return _read_module(source)
    if isinstance(source, Mapping):
        return OpenedSource("the state dict", source, {})
    if not isinstance(source, (str, Path)):
        raise InputError(
            "a source is a module, a state dict, the path of a folder or file of weights, or owner/name on the hub, not "
            f"{type(source).__name__}"
        )
    path = find(source)
    folder = _folder_of(path)
    if folder is None:
        return OpenedSource(path.name, read_tensors(path), {})
    return _read_folder(folder, path if path.is_file() else None)


def find(source: str | Path) -> Path:
    """The folder or file of a source; a repository of the hub is fetched.

    Raises:
        InputError: a name of timm, a repository that cannot be had.
    """
    path, said = Path(source).expanduser(), str(source)
    if path.exists():
        return path
    if said.startswith(("hf-hub:", "local-dir:")) or timm.is_model(said.split(".")[0]):
        raise InputError(f'{said!r} is a name of timm: open it with HookedViT.from_timm("{said}")')
    if isinstance(source, str) and REPOSITORY.fullmatch(said) and not path.suffix:
        return fetch_repository(said)
    if not path.suffix and path.parent == Path():
        raise InputError(
            f"there is no file or folder {said}, and timm has no such name either (the nearest are "
            f"{nearest(said, timm.list_models())})"
        )
    raise InputError(f"there is no file or folder {said}")


def _read_module(module: nn.Module) -> OpenedSource:
    name = type(module).__name__
    if type(module).__module__.startswith("timm."):
        raise InputError(f"this {name} is timm's: open it with HookedViT.from_timm(module)")
    if hasattr(module, "_orig_mod"):
        raise InputError("the module is compiled: pass the module that was given to torch.compile (compiled._orig_mod)")
    if hasattr(module, "merge_and_unload"):
        # peft merges in place; the given model keeps its adapter.
        merged: Any = copy.deepcopy(module)
        return _read_module(merged.merge_and_unload())
    if type(module).__module__.startswith("open_clip."):
        return OpenedSource(name, module.state_dict(), settings_of_module(module))
    if not hasattr(module, "config"):
        return OpenedSource(name, module.state_dict(), read_module_settings(module))
    from transformers.core_model_loading import revert_weight_conversion

    # The names that released files have: transformers calls parts otherwise while a model is loaded.
    state = revert_weight_conversion(module, module.state_dict())  # type: ignore[arg-type]
    config: Any = module.config
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    return OpenedSource(name, dict(state), values | {"architectures": [name]})


def _folder_of(path: Path) -> Path | None:
    """The folder whose configuration goes with a source: its own, or that of a file that libraries call so there."""
    if path.is_dir():
        return path
    return path.parent if path.name in WEIGHT_FILES and (path.parent / "config.json").is_file() else None


def _read_folder(folder: Path, file: Path | None) -> OpenedSource:
    """The tensors and configuration of a folder that a library, or the hub's client, saved.

    Args:
        file: of its weights, if it is named.

    Raises:
        InputError: no weights in it, or those of an adapter alone; a configuration that cannot be read.
    """
    config = folder_config(folder, refuses_adapters=file is None)
    weights = weights_in(folder) if file is None else file
    if is_of_open_clip(folder, config, weights):
        settings = settings_of_file(read_json(folder / "open_clip_config.json"))
        return OpenedSource(folder.resolve().name, read_tensors(weights), settings, is_folder=True)
    if "model_type" in config:
        config = full_config(config, config["model_type"])
    if (folder / "preprocessor_config.json").is_file():
        config["preprocessor"] = full_preprocessor(read_json(folder / "preprocessor_config.json"))
    return OpenedSource(folder.resolve().name, read_tensors(weights), config, is_folder=True)


def folder_config(folder: Path, refuses_adapters: bool = True) -> dict[str, Any]:
    """config.json of a folder; empty where there is none.

    Raises:
        InputError: the weights are those of an adapter alone, or quantised; a configuration that cannot be read.
    """
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and refuses_adapters:
        base = read_json(adapter).get("base_model_name_or_path")
        of_what = f" of {base}" if base else ""
        raise InputError(
            f"{folder} holds an adapter{of_what} (LoRA or alike), and not the weights: load both with peft, and pass the "
            "model that PeftModel.from_pretrained(model, folder) gives"
        )
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        how = config["quantization_config"]
        method = how.get("quant_method", "quantised") if isinstance(how, Mapping) else how
        raise InputError(f"{folder} holds quantised weights ({method}): open the model that they were made from")
    if not isinstance(config.get("vision_config") or {}, Mapping):
        raise InputError(
            f"{folder / 'config.json'}: vision_config holds the values of a tower, not {config['vision_config']!r}"
        )
    return config


def is_of_open_clip(folder: Path, config: Config, weights: Path | None = None) -> bool:
    """Whether open_clip saved a folder. Some repositories hold the same model in the files of both libraries."""
    if not (folder / "open_clip_config.json").is_file():
        return False
    return "model_type" not in config or (weights or weights_in(folder)).name.startswith("open_clip")


def folder_of_timm(source: Any) -> Path | None:
    """The folder in which timm saved a model, if the source is one, or the file of weights in it."""
    folder = _folder_of(Path(source)) if isinstance(source, (str, Path)) else None
    if folder is None or not (folder / "config.json").is_file():
        return None
    return folder if "architecture" in read_json(folder / "config.json") else None
