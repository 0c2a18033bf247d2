"""A page: sections of text and figures in one HTML file that needs no network, written whole or not at all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import jinja2
import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from vitlens.files import write_whole
from vitlens.plots.shared.style import CONFIG, DARK, LIGHT, TEMPLATES
from vitlens.version import __version__


@dataclass
class Section:
    """A heading, what to look for, and figures below one another (two figures in a pair stand side by side).

    Every line of the text is a paragraph.
    """

    heading: str
    text: str = ""
    figures: list[go.Figure | tuple[go.Figure, go.Figure]] = field(default_factory=list)


def write_page(
    path: str | Path, title: str, facts: dict[str, str], sections: Sequence[Section], *, warning: str | None = None
) -> None:
    """Writes the page; plotly's script is embedded once, everything from outside is escaped.

    Page and figures are light or dark as the reader's system is, and change at the press of a button. The page ends with
    the version of vitlens and the day, which SOURCE_DATE_EPOCH sets where pages of several days should be the same.

    Args:
        facts: what must be known of model, pictures and settings; `vitlens.model.provenance.page_facts` has the model's.
        warning: said above everything else, such as that the weights are random.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
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


def made() -> str:
    """What made a page, and when."""
    now = os.environ.get("SOURCE_DATE_EPOCH")
    day = datetime.now() if now is None else datetime.fromtimestamp(int(now), UTC)
    return f"Made with vitlens {__version__} on {day:%Y-%m-%d}."


def _fragment(figure: go.Figure, name: str) -> str:
    """The figure as HTML; named by its place, so that the same figures make the same page."""
    return figure.to_html(
        div_id=name,
        full_html=False,
        include_plotlyjs=False,
        default_height=f"{figure.layout.height or 450}px",
        config=CONFIG | {"modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vitlens.pages"), autoescape=True, undefined=jinja2.StrictUndefined
    )
