"""Reads and writes tensors in safetensors files; a broken file gives one clear sentence."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vitlens.errors import InputError
from vitlens.files import as_path, write_whole


def save_tensors(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """One safetensors file.

    Raises:
        InputError: the file cannot be written.
    """
    kept: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().to_dense() if tensor.layout != torch.strided else tensor.detach().cpu()
        dense = dense.resolve_conj().resolve_neg().contiguous()
        # The format refuses tensors that share memory.
        place = dense.untyped_storage().data_ptr()
        kept[name] = dense.clone() if place in storages else dense
        storages.add(place)
    write_whole(path, save(kept, metadata))


def read_tensors(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and its metadata.

    Raises:
        InputError: there is no such file, it cannot be opened, or it is cut off or of another kind.
    """
    path = as_path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a file")
        if not path.is_file():
            raise InputError(f"{path} is no regular file" if path.exists() else f"there is no file {str(path)!r}")
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or error}") from None
    except SafetensorError as error:
        reason = "it is empty" if path.stat().st_size == 0 else f"it is cut off or of another kind ({error})"
        raise InputError(f"{path} is no safetensors file: {reason}") from None
    except UnicodeEncodeError:
        raise InputError(f"{str(path)!a} cannot be opened: its name is not UTF-8; rename it") from None
