"""Tables that print every column whole: long text is folded over several lines, where pandas would cut it."""

import io
import math
import shutil
import textwrap
from html import escape
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitlens.errors import printable

#: The width of a print that goes to no terminal, in characters.
WIDTH = 120
#: Columns of cells up to this many characters stay on one line.
SHORT = 24


class Frame(pd.DataFrame):
    """A pandas DataFrame that prints every column whole, in a terminal and in a notebook, and `attrs["note"]` below."""

    @property
    def _constructor(self) -> type["Frame"]:
        return Frame

    def __repr__(self) -> str:
        width = shutil.get_terminal_size((WIDTH, 0)).columns
        with pd.option_context("display.width", width, "display.max_columns", None):
            written = _folded(self, width) if _has_long_text(self) else super().__repr__()
        note = self.attrs.get("note")
        return f"{written}\n{textwrap.fill(note, width)}" if note else written

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_colwidth", None, "display.max_columns", None):
            written = super()._repr_html_()
        note = self.attrs.get("note")
        return f"{written}<p>{escape(note)}</p>" if written and note else written


def rich_table(frame: pd.DataFrame, *, short: int = 0, **style: Any) -> Table:
    """A data frame for a terminal: numbers to four digits, lists of names in one cell; columns of text up to `short`
    characters are not folded."""
    table = Table(**style)
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    for i, (name, kind) in enumerate(zip(frame.columns, frame.dtypes, strict=True)):
        longest = max((len(row[i]) for row in cells), default=0)
        justify: Any = "right" if kind.kind in "iuf" else "left"
        table.add_column(Text(str(name)), justify=justify, overflow="fold", no_wrap=longest <= short)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _has_long_text(frame: pd.DataFrame) -> bool:
    """Whether pandas would cut a cell."""
    text = frame.select_dtypes(exclude="number").head(pd.get_option("display.max_rows") or len(frame))
    longest = pd.get_option("display.max_colwidth") or math.inf
    return any(len(cell) > longest for cell in text.to_numpy().flat if isinstance(cell, str))


def _folded(frame: pd.DataFrame, width: int) -> str:
    shown = frame if frame.index.name is None else frame.reset_index()
    most = pd.get_option("display.max_rows") or len(frame)
    written = io.StringIO()
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 1, 0, 0)}
    # In a notebook rich would show the table itself, and write nothing.
    console = Console(file=written, width=width, color_system=None, legacy_windows=False, force_jupyter=False)
    console.print(rich_table(shown.head(most), short=SHORT, **style))
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    return "\n".join([*lines, *([f"… {len(frame)} rows"] if len(frame) > most else [])])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return printable(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
