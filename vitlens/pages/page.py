"""A page: sections of text and figures in one HTML file that needs no network, written whole or not at all."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from vitlens.files import write_whole
from vitlens.plots.shared.scales import one_range
from vitlens.plots.shared.style import CONFIG, DARK, LIGHT, TEMPLATES, true_minus
from vitlens.version import __version__

#: Pixels that a panel needs beside one or two others, and in a longer row: such a figure is wider than a phone and scrolled
#: within its card.
WIDE_PANEL, SMALL_PANEL = 270, 150
#: Pixels of a figure's title and of each line below it.
TITLE_LINE, SUBTITLE_LINE = 40, 16


@dataclass
class Section:
    """A heading, what to look for, and figures below one another (two figures in a pair stand side by side).

    Every line of the text is a paragraph. `code` stands below it, letter by letter, to be copied.
    """

    heading: str
    text: str = ""
    figures: list[go.Figure | tuple[go.Figure, go.Figure]] = field(default_factory=list)
    code: str = ""


def write_page(
    path: str | Path, title: str, facts: dict[str, str], sections: Sequence[Section], *, warning: str | None = None
) -> None:
    """Writes the page; plotly's script is embedded once, everything from outside is escaped.

    The colour scales of one quantity have the same ends in all figures. Page and figures are light or dark as the reader's
    system is, and change at the press of a button. The page ends with the version of vitlens and the day, which
    SOURCE_DATE_EPOCH sets where pages of several days should be the same.

    Args:
        facts: what must be known of model, pictures and settings; `vitlens.model.provenance.page_facts` has the model's.
        warning: said above everything else, such as that the weights are random.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    shared = iter(one_range([figure for section in sections for row in section.figures for figure in _pair(row)]))
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            facts=facts,
            warning=warning,
            made=made(),
            sections=[
                {
                    "heading": true_minus(section.heading),
                    "text": section.text,
                    "code": section.code,
                    "rows": [
                        [_shown(next(shared), f"figure-{i}-{j}-{k}") for k, _ in enumerate(_pair(row))]
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


def made() -> str:
    """What made a page, and when."""
    now = os.environ.get("SOURCE_DATE_EPOCH")
    day = datetime.now() if now is None else datetime.fromtimestamp(int(now), UTC)
    return f"Made with vitlens {__version__} on {day:%Y-%m-%d}."


def _pair(row: go.Figure | tuple[go.Figure, go.Figure]) -> tuple[go.Figure, ...]:
    return row if isinstance(row, tuple) else (row,)


def _shown(figure: go.Figure, name: str) -> dict[str, Any]:
    """The figure as HTML, its title and subtitle as text of the page, and its least width.

    It is named by its place, so that the same figures make the same page. Text of the page is broken where the screen ends,
    and no button of the figure lies over it; the title stays in the figure for its image.
    """
    panels = [axis for axis in figure.layout if axis.startswith("xaxis") and figure.layout[axis].domain]
    subtitle = _plain(figure.layout.title.subtitle.text)
    side_by_side = {figure.layout[axis].domain[0] for axis in panels}
    return {
        "title": _plain(figure.layout.title.text),
        "subtitle": subtitle,
        "least_width": _least_width(figure, len(side_by_side)),
        # What the figure leaves for its title, at most up to the titles of its panels.
        "above": min(TITLE_LINE + SUBTITLE_LINE * (subtitle.count("\n") + 1), (figure.layout.margin.t or 80) - 24),
        "html": figure.to_html(
            div_id=name,
            full_html=False,
            include_plotlyjs=False,
            default_height=f"{figure.layout.height or 450}px",
            config=CONFIG | {"modeBarButtonsToRemove": ["select2d", "lasso2d"]},
        ),
    }


def _least_width(figure: go.Figure, n_panels: int) -> int:
    if n_panels < 2:
        return 0
    sides = sum(80 if side is None else int(side) for side in (figure.layout.margin.l, figure.layout.margin.r))
    return sides + n_panels * (WIDE_PANEL if n_panels <= 3 else SMALL_PANEL)


def _plain(line: str | None) -> str:
    """A title of plotly's as text: without its line breaks and escapes."""
    return html.unescape((line or "").replace("<br>", "\n"))


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vitlens.pages"), autoescape=True, undefined=jinja2.StrictUndefined
    )
