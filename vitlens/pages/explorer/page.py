"""The page: scripts, style and measurements in one HTML file that needs no network."""

import base64
import gzip
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import safetensors.numpy

from vitlens.pages.explorer.measure.picture import Measured

FOLDER = Path(__file__).parent / "web"
#: The scripts in the order in which they make one module.
SCRIPTS = (
    "element", "colours", "measured", "state", "glossary", "stage", "layers", "strip", "board", "lines", "scatter", "bars",
    "series", "cards", "data_set", "part", "features", "swap", "given", "notes", "sentences", "search", "compare",
    "keyboard", "drawing", "export", "picture", "panels", "head", "view", "host",
)  # fmt: skip
STYLES = ("style", "frame", "picture", "drawings", "cards", "widths")


def explorer_page(facts: dict[str, Any], pictures: list[bytes]) -> str:
    """The HTML file; everything from outside is JSON that scripts show as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template("page.html.j2").render(
        facts=facts,
        style=style(),
        script=script(),
        pictures=[base64.b64encode(picture).decode() for picture in pictures],
    )


def pack_measured(measured: Measured) -> bytes:
    """The tensors of a picture as a compressed safetensors file."""
    # safetensors writes memory as it lies, and indexing may leave it in another order.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in measured.tensors.items()}
    return gzip.compress(safetensors.numpy.save(tensors), compresslevel=6, mtime=0)


@cache
def script() -> str:
    """One ECMAScript module, the same for the page and the notebook."""
    return "\n".join((FOLDER / f"{name}.js").read_text() for name in SCRIPTS)


@cache
def style() -> str:
    """The style sheet, the same for the page and the notebook."""
    return "\n".join((FOLDER / f"{name}.css").read_text() for name in STYLES)
