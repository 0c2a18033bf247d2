"""Puts a page of scripts, style and numbers into one HTML file that needs no network."""

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import safetensors.numpy


def render(template: Path, **values: Any) -> str:
    """A template filled in: what comes from outside is escaped, or JSON that scripts show as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template.name).render(**values)


@cache
def joined_files(*files: Path) -> str:
    """Scripts that make one module, or style sheets that make one."""
    return "\n".join(file.read_text() for file in files)


def in_folder(folder: Path, names: Sequence[str], ending: str) -> list[Path]:
    """The files of a folder that have these names, in this order."""
    return [folder / f"{name}.{ending}" for name in names]


def pack_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """As a compressed safetensors file."""
    # safetensors writes memory as it lies, and indexing may leave it in another order.
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return gzip.compress(safetensors.numpy.save(whole), compresslevel=6, mtime=0)


def as_text(packed: bytes) -> str:
    """Bytes as a page holds them."""
    return base64.b64encode(packed).decode()
