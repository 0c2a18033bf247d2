"""The explorer's page: scripts, plotly and measurements in one HTML file that needs no network."""

import base64
import gzip
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.io as pio
import safetensors.numpy
from plotly.colors import sample_colorscale, unlabel_rgb
from plotly.offline import get_plotlyjs

from vitlens.pages.explorer.measure.picture import Measured
from vitlens.plots.shared.style import COLOURS, DARK, LIGHT, NEUTRAL, OUTLINE, SEQUENTIAL, TEMPLATES

FOLDER = Path(__file__).parent
PAGE_SHADES = 256
#: The scripts in the order in which they make one module.
SCRIPTS = (
    "element", "colours", "measured", "state", "glossary", "stage", "layers", "strip", "board", "lines", "scatter", "bars",
    "cards", "sentences", "search", "compare", "keyboard", "export", "view", "host",
)  # fmt: skip


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
        plotly=base64.b64encode(packed_plotly()).decode(),
        pictures=[base64.b64encode(picture).decode() for picture in pictures],
    )


def pack_measured(measured: Measured) -> bytes:
    """The tensors of a picture as a compressed safetensors file."""
    # safetensors writes memory as it lies, and indexing may leave it in another order.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in measured.tensors.items()}
    return gzip.compress(safetensors.numpy.save(tensors), compresslevel=6, mtime=0)


@cache
def packed_plotly() -> bytes:
    """Plotly's own script, compressed: a third of its size, so that the room is left to the measurements."""
    return gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)


@cache
def script() -> str:
    """One ECMAScript module, the same for the page and the notebook."""
    folder = FOLDER / "web"
    names = SCRIPTS if folder.is_dir() else ("measured", "maps", "charts", "choices", "explorer", "host")
    folder = folder if folder.is_dir() else FOLDER
    return "\n".join((folder / f"{name}.js").read_text() for name in names if (folder / f"{name}.js").is_file())


@cache
def style() -> str:
    """The style sheet, with the colours of all of vitlens' figures."""
    themes = [
        f'.vitlens-explorer[data-theme="{name}"] {{ color-scheme: {name}; --page: {page}; --card: {theme.paper}; '
        f"--ink: {theme.ink}; --muted: {theme.muted}; --edge: {theme.grid}; --outline: {OUTLINE}; }}"
        for name, theme, page in (("light", LIGHT, "#f4f5f7"), ("dark", DARK, "#0c0e12"))
    ]
    return "\n".join([*themes, (FOLDER / "explorer.css").read_text()])


@cache
def looks() -> dict[str, Any]:
    """Templates and colours of all of vitlens' figures, as the scripts need them."""
    return {
        "sequential": _shades(SEQUENTIAL),
        "themes": {
            name: {"template": pio.templates[TEMPLATES[name]].to_plotly_json(), "diverging": _shades(theme.diverging)}
            for name, theme in (("light", LIGHT), ("dark", DARK))
        },
        "lines": list(COLOURS),
        "chosen": OUTLINE,
        "neutral": NEUTRAL,
    }


def _shades(scale: str | Sequence[str]) -> list[list[int]]:
    """A colour scale as 256 colours."""
    places = [i / (PAGE_SHADES - 1) for i in range(PAGE_SHADES)]
    colours = sample_colorscale(scale if isinstance(scale, str) else list(scale), places)
    return [[round(float(part)) for part in unlabel_rgb(colour)] for colour in colours]
