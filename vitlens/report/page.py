"""A page: sections of text and figures in one HTML file that needs no network, written whole or not at all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2
import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from vitlens.errors import InputError
from vitlens.plots.style import DARK, LIGHT, TEMPLATES


@dataclass
class Section:
    """A heading, what to look for, and figures below one another (two figures in a pair stand side by side)."""

    heading: str
    text: str = ""
    figures: list[go.Figure | tuple[go.Figure, go.Figure]] = field(default_factory=list)


def write_page(path: str | Path, title: str, facts: dict[str, str], sections: Sequence[Section]) -> None:
    """Writes the page; plotly's script is embedded once, everything from outside is escaped.

    Page and figures are light or dark as the reader's system is, and change at the press of a button.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            facts=facts,
            sections=[
                {
                    "heading": section.heading,
                    "text": section.text,
                    "rows": [
                        [
                            _fragment(figure, f"figure-{i}-{j}-{k}")
                            for k, figure in enumerate(row if isinstance(row, tuple) else (row,))
                        ]
                        for j, row in enumerate(section.figures)
                    ],
                }
                for i, section in enumerate(sections)
            ],
            plotly_script=get_plotlyjs(),
            themes={"light": LIGHT, "dark": DARK},
            templates={theme: pio.templates[name].to_plotly_json() for theme, name in TEMPLATES.items()},
        )
    )
    # A file name may hold what is no UTF-8.
    write_whole(path, page.encode(errors="backslashreplace"))


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file so that it never exists half-written.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def check_writable(path: str | Path) -> None:
    """Raises InputError at the start of long work rather than at its end."""
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder} to write {Path(path).name} to: make it first")
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} is not writable")


def _fragment(figure: go.Figure, name: str) -> str:
    """The figure as HTML; named by its place, so that the same figures make the same page."""
    return figure.to_html(
        div_id=name,
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{figure.layout.height or 450}px",
        config={"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vitlens.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
