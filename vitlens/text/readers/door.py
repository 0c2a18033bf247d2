"""The door for text towers of other libraries: finds out what a source is, as that for pictures does."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from vitlens.arguments import short
from vitlens.errors import InputError
from vitlens.model.families.hub import fetch_tokenizer
from vitlens.model.families.sources import find, folder_config, is_of_open_clip
from vitlens.text.readers.huggingface import read_huggingface_folder, read_huggingface_texts
from vitlens.text.readers.open_clip import read_open_clip_folder, read_open_clip_texts
from vitlens.text.readers.reading import TextReading


def open_texts(source: Any, tokenizer: Any, device: torch.device | None, dtype: torch.dtype | None) -> TextReading:
    """How a model of another library reads texts: a module, a folder, or a repository of the hub.

    Raises:
        InputError: none of these, a model that reads no texts, no tokenizer, files that cannot be read.
    """
    if isinstance(source, nn.Module):
        if device is not None or dtype is not None:
            raise InputError("a module reads texts where it is and in its precision: leave device= and dtype= out")
        return _read_module(source, tokenizer)
    if not isinstance(source, (str, Path)):
        raise InputError(
            "a source of a text tower is a module, the path of a folder with its weights and tokenizer, or owner/name on "
            f"the hub, not {short(source)}"
        )
    found = _read_folder(_folder(source, tokenizer), tokenizer, dtype)
    if device is not None:
        found.embed.module.to(device)  # type: ignore[attr-defined]
    return found


def _read_module(module: Any, tokenizer: Any) -> TextReading:
    if hasattr(module, "encode_text"):
        return read_open_clip_texts(module, tokenizer)
    if hasattr(module, "config"):
        return read_huggingface_texts(module, tokenizer)
    raise InputError(
        f"this {type(module).__name__} reads no texts as models of Hugging Face or open_clip do: pass such a model, or make "
        "a TextTower of a function from strings to vectors"
    )


def _folder(source: str | Path, tokenizer: Any) -> Path:
    """The folder of a source; a repository is fetched, with its tokenizer."""
    said = str(source)
    is_here = Path(source).expanduser().exists()
    if not is_here and timm.is_model(said.split(".")[0]):
        raise InputError(
            f"{said!r} is a name of timm, whose models read no texts: pass the model that has both, of Hugging Face or "
            "open_clip"
        )
    path = find(source)
    if not is_here and tokenizer is None:
        fetch_tokenizer(said)
    if path.is_dir():
        return path
    if any((path.parent / name).is_file() for name in ("config.json", "open_clip_config.json")):
        return path.parent
    raise InputError(f"{path} is a file of weights, which has no tokenizer: pass the folder with both")


def _read_folder(folder: Path, tokenizer: Any, dtype: torch.dtype | None) -> TextReading:
    config = folder_config(folder)
    if is_of_open_clip(folder, config):
        return read_open_clip_folder(folder, tokenizer, dtype)
    if not config:
        raise InputError(
            f"{folder} holds no config.json or open_clip_config.json, which tell what its tower of texts is"
        )
    return read_huggingface_folder(folder, config, tokenizer, dtype)
