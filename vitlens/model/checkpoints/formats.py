"""Reads what a file of weights holds: safetensors, torch's files, and the index of several files. Nothing is unpickled."""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitlens.errors import InputError, reason

# What torch and safetensors raise for files that are something else.
READ_ERRORS = (
    pickle.UnpicklingError,
    SafetensorError,
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
)
HOW_TO_SAVE = "save the state dict as safetensors, or with torch.save(model.state_dict(), …)"
PICKLED = re.compile(r"GLOBAL (\S+)")
#: How files of other formats begin.
MAGIC = {
    b"GGUF": "a GGUF file, whose weights are quantised for llama.cpp: open the weights that it was made from",
    b"\x89HDF": "an HDF5 file (of Keras): save the PyTorch weights as safetensors",
    b"<htm": "a web page and no weights: download the file itself",
    b"<!DO": "a web page and no weights: download the file itself",
    b"vers": "a pointer of git LFS, in place of the weights: fetch them with git lfs pull",
}


def read_tensors(path: Path, *, how_to_save: str = HOW_TO_SAVE) -> Any:
    """What a file of safetensors, of torch, or the files that an index names hold.

    Args:
        how_to_save: the end of a message about a file of something else: how to make one of tensors.

    Raises:
        InputError: no file, or one that cannot be read without running what is in it.
    """
    if path.is_dir():
        raise InputError(
            f"{path} is a folder: name the file of weights in it, or open the folder with HookedViT.from_pretrained"
        )
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: {how_to_save}")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    with path.open("rb") as file:
        begin = file.read(4)
    if begin in MAGIC:
        raise InputError(f"{path} is {MAGIC[begin]}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # timm's training script also saves its arguments, which are data and no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as error:
        if _is_cut_short(path):
            raise InputError(f"{path} is cut short: download or copy it again") from None
        pickled = PICKLED.search(str(error))
        said = f"it holds a {pickled[1]}, which is none" if pickled else reason(error)
        raise InputError(f"{path} cannot be read as a file of tensors ({said}): {how_to_save}") from None


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Raises:
        InputError: no file, or one that is no JSON.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path.parent} holds no {path.name}: name the file of weights in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {reason(error)}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds no configuration, but a {type(found).__name__}")
    return dict(found)


def _read_shards(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise InputError(f"{index} names no files of weights (it has no weight_map)")
    files = sorted({str(file) for file in names.values()})
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise InputError(
            f"{index} names {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not in {index.parent}: "
            "put all of its files there"
        )
    return {key: tensor for file in files for key, tensor in read_tensors(index.parent / file).items()}


def _is_cut_short(path: Path) -> bool:
    """Whether the end of a file is missing; its beginning says how long it is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if path.suffix != ".safetensors":
            return begin.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path)
        n_header = int.from_bytes(begin, "little")
        if 8 + n_header > size:
            # The first letter of a header is a brace; other files do not have one there.
            return file.read(1) == b"{"
        try:
            header = json.loads(file.read(n_header))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
    return 8 + n_header + max(ends, default=0) > size
