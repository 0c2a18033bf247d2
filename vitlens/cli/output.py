"""What a command found, and how it is handed over: tables on a terminal, JSON, a page, a figure, a table in a file."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from vitlens.errors import printable
from vitlens.files import is_stream, write_whole
from vitlens.results.writing import (
    IMAGES,
    PAGES,
    RESULTS,
    TABLES,
    ending_of,
    require_kaleido,
    to_json,
    write_figure,
    write_table,
)
from vitlens.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from vitlens.model.hooked_vit import HookedViT
    from vitlens.pages.page import Section
    from vitlens.results.result import Result

#: A page with the figures of more pictures than this would be too heavy to open.
MOST_ON_PAGE = 12
#: A table that is piped into a file or another command must not be cut to the width of a terminal.
WIDE = 220


@dataclass
class Answer:
    """What a command found.

    `rows` is the tidy table, `summary` holds the short ones by name. A terminal gets `shown`, tables and drawings each under
    its title, and then `notes`. The page has `title`, `facts` and `sections`, which are drawn only if it is written.
    """

    command: str
    model: str
    rows: "pd.DataFrame"
    summary: dict[str, Any]
    shown: "Sequence[tuple[str, pd.DataFrame | str]]"
    sections: "Callable[[], list[Section]]"
    figure: "Callable[[], Figure]"
    title: str
    facts: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    #: The model, whose weights, classes and preprocessing are named.
    hooked: "HookedViT | None" = None
    #: The whole result, of commands that can write it.
    result: "Result | None" = None

    def provenance(self) -> dict[str, str]:
        """The facts about the model."""
        from vitlens.model.provenance import page_facts

        return {"model": self.model} if self.hooked is None else page_facts(self.hooked)

    @property
    def warning(self) -> str | None:
        """A warning that comes first, such as that the weights are random."""
        return None if self.hooked is None else self.hooked.provenance.warning

    def document(self) -> dict[str, Any]:
        """Everything but the figures, as JSON has it."""
        return {
            "command": self.command,
            "vitlens": __version__,
            "model": self.model,
            "provenance": self.provenance(),
            "settings": self.settings,
            **self.summary,
            "notes": list(self.notes),
            "rows": self.rows,
        }


#: What most commands write.
WRITTEN = (*PAGES, *IMAGES, *TABLES)


def check_out(out: Path | None, endings: Sequence[str] = WRITTEN) -> None:
    """Raises InputError before any work is done if the file could not be written at the end."""
    if out is not None and ending_of(out, endings, "--out") in IMAGES:
        require_kaleido()


def hand_over(answer: Answer, out: Path | None, as_json: bool) -> None:
    """Writes the file of --out, then prints: JSON alone, or tables, notes and what was written."""
    # It imports pandas, which help and completion must not wait for.
    from vitlens.results.frames import rich_table

    if out is not None:
        _write(answer, out)
    if as_json:
        print_json(answer.document())
        return
    # Help imports this module, and pandas takes longer than it does.

    for title, found in answer.shown:
        say(title)
        if isinstance(found, str):
            say(found)
        else:
            terminal().print(rich_table(found))
    for note in [*filter(None, [answer.warning]), *answer.notes]:
        say(note)
    if out is None:
        say("figures: the same command with --out page.html writes them")
    else:
        say_written(out)


def _write(answer: Answer, out: Path) -> None:
    from vitlens.pages.page import write_page

    ending = out.suffix.lower()
    if ending in RESULTS and answer.result is not None:
        answer.result.save(out)
    elif ending in PAGES:
        facts = {**answer.provenance(), **answer.facts}
        write_page(out, answer.title, facts, answer.sections(), warning=answer.warning)
    elif ending in IMAGES:
        write_figure(answer.figure(), out)
    elif ending == ".json":
        write_whole(out, to_json(answer.document()).encode())
    else:
        write_table(answer.rows, out)


def hand_over_page(command: str, model: str, out: Path, as_json: bool) -> None:
    """Says which page a command has written."""
    if as_json:
        print_json(
            {"command": command, "model": model, "wrote": out, "bytes": None if is_stream(out) else out.stat().st_size}
        )
    else:
        say_written(out)


def print_json(document: Any) -> None:
    sys.stdout.write(to_json(document))


def terminal() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDE)


def say(sentence: str) -> None:
    """Prints a line without markup: file and class names may look like rich's."""
    terminal().print(printable(sentence), highlight=False, markup=False, soft_wrap=True)


def say_written(out: Path) -> None:
    if is_stream(out):
        # The page may have been written to standard output, so nothing else is printed there.
        Console(stderr=True).print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)
        return
    say(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
