"""The common look of figures: templates, colour scales for signed and other values, escaping of text.

What depends on the theme (text, background, grid, reference lines, the scale of signed values) stands in plotly's
templates "vitlens" and "vitlens_dark" and nowhere else, so a figure changes its theme by changing its template.
"""

import html
import math
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from torch import Tensor

from vitlens.errors import printable

SEQUENTIAL = "Viridis"
FONT = "Inter, 'Helvetica Neue', Arial, sans-serif"
# Neither black nor white: seen on both backgrounds.
NEUTRAL = "#7d8593"
# Okabe & Ito's colours, which colour-blind readers can distinguish; their black is replaced by the neutral grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", NEUTRAL, "#F0E442")
#: What raises and what lowers a value, where it is drawn as a bar or a line: the hues of the scale of signed values.
RAISES, LOWERS = "#D6604D", "#4393C3"
#: Fields that hold dark text, in either theme.
FIELD, ON_FIELD = "#ccd1d9", "#1f2430"
#: Sizes of letters: a figure's title, those of its panels, and axes with their ticks. What is read first is the largest.
TITLE, PANEL_TITLE, AXIS = 17, 13, 11
#: Viridis mixed with as much white: fields of which every one can hold dark text.
PALE = ("#a180a9", "#9da8c5", "#8fc7c6", "#aee3b0", "#fef392")
# Lies on pictures and maps, whatever the theme: pink is in no scale and rarely in a photograph.
OUTLINE, GRID_ON_PICTURE, WARNING = "#ff2fa0", "rgba(255,255,255,0.35)", "#E69F00"
#: Of fewer pictures than this nothing is ranked: no order, no bold, no colour that says which is best.
FEWEST = 10
#: A button of plotly's that uploads the figure, with the picture in it. What is removed by a figure's own layout is gone
#: wherever it is shown: on pages, by `show()`, in notebooks, in files of `write_html`.
UPLOAD_BUTTON = "sendChartToCloud"
#: Of plotly as it is embedded on pages: no upload either, whatever the layout says.
CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}
NONE_FONT = {"size": PANEL_TITLE, "color": ON_FIELD}
LABEL_ON_PICTURE = {"font": {"size": 10, "color": ON_FIELD}, "bgcolor": "rgba(255,255,255,0.88)"}


#: A hyphen that stands for a minus: before a number, after neither a letter nor a number, or in 1e-7.
HYPHEN = re.compile(r"(?<![\w)-])-(?=\.?\d)|(?<=\de)-(?=\d)")
SIGNED_ZERO = re.compile(r"(?<![\w.])[−+](0\.0+)(?![\d.e])")


@dataclass(frozen=True)
class Theme:
    """The colours that differ between light and dark."""

    paper: str
    ink: str
    #: Subtitles and reference lines.
    muted: str
    grid: str
    #: From the most negative to the most positive value; the middle, 0, recedes into the paper. The ends keep their hue:
    #: near black or white the strongest cells would be those whose sign is hardest to see.
    diverging: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2430",
    muted="#5b6270",
    grid="#e6e9ee",
    diverging=("#2166ac", "#4393c3", "#92c5de", "#f7f7f7", "#f4a582", "#d6604d", "#b2182b"),
)
DARK = Theme(
    paper="#15181e",
    ink="#e4e7ec",
    muted="#a3abb8",
    grid="#2e343f",
    diverging=("#6db3e6", "#3a83bf", "#24507a", "#191c22", "#7a3229", "#c0503f", "#ee8a70"),
)


def _template(theme: Theme) -> go.layout.Template:
    axis = {
        "gridcolor": theme.grid,
        "linecolor": theme.grid,
        "zerolinecolor": theme.grid,
        "zerolinewidth": 1,
        "automargin": True,
        "ticks": "",
        "tickfont": {"size": AXIS},
        "title": {"font": {"size": AXIS}},
    }
    signed = [[i / (len(theme.diverging) - 1), colour] for i, colour in enumerate(theme.diverging)]
    return go.layout.Template(
        layout={
            "paper_bgcolor": theme.paper,
            "plot_bgcolor": theme.paper,
            "font": {"family": FONT, "size": 13, "color": theme.ink},
            "title": {
                "x": 0.01,
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 14},
                "font": {"size": TITLE},
                "subtitle": {"font": {"size": 12, "color": theme.muted}},
            },
            "colorway": COLOURS,
            "legend": {"font": {"size": AXIS + 1}, "title": {"font": {"size": AXIS + 1}}},
            # What has no colour scale of its own is signed: `SEQUENTIAL` is written into figures, in either theme.
            "coloraxis": {"colorscale": signed},
            "hoverlabel": {"align": "left", "font": {"family": FONT}},
            "xaxis": axis,
            "yaxis": axis,
            "shapedefaults": {"line": {"color": theme.muted}},
        },
        data={
            "heatmap": [{"colorscale": signed}],
            "bar": [{"marker": {"line": {"width": 0}}, "error_y": {"color": theme.ink}}],
            "waterfall": [
                {
                    "increasing": {"marker": {"color": RAISES}},
                    "decreasing": {"marker": {"color": LOWERS}},
                    "totals": {"marker": {"color": theme.muted}},
                    "connector": {"line": {"color": theme.grid, "width": 1}},
                }
            ],
        },
    )


#: Of each theme the name of its template: `figure.update_layout(template="vitlens_dark")`.
TEMPLATES = {"light": "vitlens", "dark": "vitlens_dark"}
pio.templates[TEMPLATES["light"]] = _template(LIGHT)
pio.templates[TEMPLATES["dark"]] = _template(DARK)


def dark(figure: go.Figure) -> go.Figure:
    """The same figure for a dark background; the one given stays as it is, light."""
    return go.Figure(figure).update_layout(template=TEMPLATES["dark"])


def pale(colour: str) -> str:
    """A colour mixed with as much white, so that dark text can be read on it."""
    return "#" + "".join(f"{(int(colour[i : i + 2], 16) + 255) // 2:02x}" for i in (1, 3, 5))


def text(value: object, longest: int = 48) -> str:
    """Text from outside (class names, file names) as plotly shows it: escaped, and cut where it would not fit."""
    plain = printable(str(value))
    return html.escape(plain if len(plain) <= longest else plain[: longest - 1] + "…")


def array(values: Tensor) -> np.ndarray:
    """Float32 on the CPU: plotly ships NumPy arrays as binary, lists as text three times the size."""
    return values.detach().float().cpu().numpy()


def symmetric(values: Tensor | np.ndarray) -> float:
    """The largest magnitude: the end of a diverging scale centred at 0."""
    plain = array(values) if isinstance(values, Tensor) else values
    finite = np.abs(plain)[np.isfinite(plain)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def diverging(values: Tensor | np.ndarray) -> dict[str, Any]:
    """Heatmap settings for signed values: blue below 0, the paper's colour at 0, red above, the ends equally far.

    The colours are the template's, so that they change with the theme, until the figure is given a scale of its own.
    """
    end = symmetric(values)
    return {"zmin": -end, "zmax": end, "zmid": 0}


def colorbar(title: str) -> dict[str, Any]:
    """A slim colour bar; the empty line keeps its title off the topmost tick."""
    heading = {"text": f"{title}<br> ", "side": "top", "font": {"size": AXIS}}
    return {"title": heading, "thickness": 14, "outlinewidth": 0, "tickfont": {"size": AXIS}}


def in_percent(share: float, digits: int = 0) -> str:
    """A share as every page writes it: "57 %"."""
    return f"{100 * share:.{digits}f} %"


def percent_ticks(end: float = 1.0) -> dict[str, Any]:
    """Ticks of an axis or a colour bar of shares from 0 to `end`, in per cent."""
    power = 10.0 ** math.floor(math.log10(end / 2))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if end / (power * times) <= 5.01)
    ticks = [step * i for i in range(math.floor(end / step + 1e-9) + 1)]
    return {"tickvals": ticks, "ticktext": [f"{100 * tick:.4g} %" for tick in ticks]}


def log_ticks(low: float, high: float, shares: bool = False) -> dict[str, Any]:
    """Ticks of a logarithmic axis that are whole numbers: plotly writes 2 and 5 without their decade."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1,)
    ticks = [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]
    return {"tickvals": ticks, "ticktext": [f"{100 * tick:.4g} %" if shares else f"{tick:,.4g}" for tick in ticks]}


def cell_numbers(values: Tensor, digits: int = 2) -> np.ndarray:
    """Numbers for the cells of a board, with a true minus, which 0 does not have."""
    return np.vectorize(lambda value: true_minus(f"{value:.{digits}f}"), otypes=[object])(array(values))


def true_minus(line: str) -> str:
    """The text with a minus for every hyphen before a number, and no sign before a 0."""
    signed = HYPHEN.sub("−", line)
    return SIGNED_ZERO.sub(r"\1", signed)


def finish(figure: go.Figure, title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """The common layout. `subtitle` says what a reader must know to read the colours: model, tokens, normalisation.

    Sizes of letters and minus signs are set here, so that all figures have the same.
    """
    lines = 1 + subtitle.count("<br>") if subtitle else 0
    figure.update_layout(
        template=TEMPLATES["light"],
        title={"text": true_minus(title), "subtitle": {"text": true_minus(subtitle)}},
        modebar={"remove": [UPLOAD_BUTTON]},
        margin={"l": 60, "r": 20, "t": 56 + 18 * lines, "b": 50},
    )
    for note in figure.layout.annotations:
        # 16 is what plotly gives to the titles of panels.
        size = PANEL_TITLE if note.font.size == 16 else note.font.size
        note.update(text=true_minus(note.text), font={"size": size})
    return figure.update_layout(**layout)


def say_none(figure: go.Figure, what: str, row: int, col: int) -> None:
    """Writes into an empty panel that there is nothing: else it looks like one that was not drawn."""
    axes = figure.get_subplot(row, col)
    middle = {"x": sum(axes.xaxis.domain) / 2, "y": sum(axes.yaxis.domain) / 2}
    figure.add_annotation(
        text=what, xref="paper", yref="paper", showarrow=False, **middle, **LABEL_ON_PICTURE | {"font": NONE_FONT}
    )


def refusal(title: str, reason: str) -> go.Figure:
    """In a figure's place: the sentence why it cannot be drawn."""
    lines = textwrap.wrap(reason, 110)
    figure = go.Figure()
    figure.add_annotation(
        text="<br>".join(text(line, longest=120) for line in lines),
        xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="top", align="left", showarrow=False,
    )  # fmt: skip
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return finish(figure, f"{text(title)}: not drawn", height=120 + 20 * len(lines))
