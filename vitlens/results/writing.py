"""Writes a table or a figure as the kind of file that the ending of its path names."""

import io
import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlens.errors import InputError, printable
from vitlens.files import as_path, check_writable, write_whole

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

#: A result with all its fields, as `load_result` reads it.
RESULTS = (".safetensors",)
TABLES = (".csv", ".parquet", ".json")
PAGES = (".html", ".htm")
IMAGES = (".png", ".svg", ".pdf")
#: Pixels of a file for each pixel of a figure, so that print is sharp.
IMAGE_SCALE = 2


def ending_of(path: str | Path, endings: Sequence[str], name: str = "path") -> str:
    """The path's ending in lower case, once it is clear that such a file can be written.

    Args:
        endings: those that are allowed.
        name: what an error calls the path.

    Raises:
        InputError: the path ends in something else, cannot be written to, or needs a package that is not installed.
    """
    path = as_path(path, name)
    ending = path.suffix.lower()
    if ending not in endings:
        raise InputError(
            f"{name} {path} should end in {', '.join(endings[:-1])} or {endings[-1]}: the ending says what is written"
        )
    if ending in IMAGES and find_spec("kaleido") is None:
        raise InputError(
            f"a figure becomes a {ending} file by kaleido, which is not installed: pip install kaleido, or end "
            f"{name} in .html"
        )
    check_writable(path)
    return ending


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """A table as .csv, .parquet or .json, without the frame's index.

    Raises:
        InputError: the path has another ending, or cannot be written to.
    """
    ending = ending_of(path, TABLES)
    table = table.map(lambda value: printable(value) if isinstance(value, str) else value)
    if ending == ".json":
        content = to_json(table).encode()
    elif ending == ".csv":
        content = table.to_csv(index=False).encode()
    else:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content = buffer.getvalue()
    write_whole(path, content)


def write_figure(figure: "Figure", path: str | Path) -> None:
    """A figure as an image (.png, .svg, .pdf), or as a page (.html) that needs no network.

    Raises:
        InputError: the path has another ending, or cannot be written to; kaleido is not installed or does not run.
    """
    ending = ending_of(path, (*PAGES, *IMAGES))
    write_whole(path, figure.to_html().encode() if ending in PAGES else _image(figure, ending))


def require_kaleido() -> None:
    """Draws an empty figure, so that long work does not end in a figure that cannot be drawn.

    Raises:
        InputError: kaleido does not run.
    """
    from plotly.graph_objects import Figure

    _image(Figure(), ".svg")


def _image(figure: "Figure", ending: str) -> bytes:
    try:
        return figure.to_image(format=ending[1:], scale=IMAGE_SCALE)
    except Exception as error:
        # kaleido starts a browser, which fails in ways of its own.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"kaleido cannot draw a {ending} file here: {reason[:200]} (it needs Chrome or Chromium, see "
            "`plotly_get_chrome`); a path that ends in .html needs neither"
        ) from None


def to_json(document: Any) -> str:
    """Strict JSON: what is not a finite number is null."""
    return json.dumps(_plain(document), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return [_plain(row) for row in value.to_dict("records")]
    if isinstance(value, dict):
        return {printable(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return printable(value) if isinstance(value, (str, Path)) else value
