"""The page of features: scripts, style, numbers and crops in one HTML file that needs no network."""

import base64
import gzip
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import safetensors.numpy

from vitlens.pages.explorer.page import FOLDER as SHARED

OWN = Path(__file__).parent / "web"
#: The scripts in the order in which they make one module; those of the page about pictures come first.
SHARED_SCRIPTS = ("element", "colours", "measured", "state", "glossary", "stage", "bars", "cards", "drawing", "export")
OWN_SCRIPTS = (
    "words", "numbers", "labels", "list", "crops", "histogram", "card", "active", "elsewhere", "doses", "choices", "top",
    "browser", "open",
)  # fmt: skip
SHARED_STYLES = ("style", "frame", "picture", "drawings", "cards")
OWN_STYLES = ("features", "narrow")


def features_page(facts: dict[str, Any], numbers: bytes, crops: list[str]) -> str:
    """The HTML file; everything from outside is JSON that scripts show as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(OWN), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template("page.html.j2").render(
        facts=facts,
        style=features_style(),
        script=features_script(),
        numbers=base64.b64encode(numbers).decode(),
        crops="\n".join(crops),
    )


def pack_numbers(tensors: dict[str, np.ndarray]) -> bytes:
    """As a compressed safetensors file."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return gzip.compress(safetensors.numpy.save(whole), compresslevel=6, mtime=0)


@cache
def features_script() -> str:
    """One ECMAScript module, the same for the page and the notebook."""
    files = [SHARED / f"{name}.js" for name in SHARED_SCRIPTS] + [OWN / f"{name}.js" for name in OWN_SCRIPTS]
    return "\n".join(file.read_text() for file in files)


@cache
def features_style() -> str:
    """The style sheet, the same for the page and the notebook."""
    files = [SHARED / f"{name}.css" for name in SHARED_STYLES] + [OWN / f"{name}.css" for name in OWN_STYLES]
    return "\n".join(file.read_text() for file in files)
