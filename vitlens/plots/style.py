"""How every figure looks: one template, one scale for signed values and one for the others, text that is only text."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

DIVERGING = "RdBu_r"
SEQUENTIAL = "Viridis"
FONT = "Inter, 'Helvetica Neue', Arial, sans-serif"
# Okabe & Ito's colours: told apart by everyone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def text(value: object, longest: int = 48) -> str:
    """Text from outside (class names, file names) as plotly shows it: escaped, and cut where it would not fit."""
    plain = str(value)
    return html.escape(plain if len(plain) <= longest else plain[: longest - 1] + "…")


def array(values: Tensor) -> np.ndarray:
    """Float32 on the CPU: plotly ships NumPy arrays as binary, lists as text three times the size."""
    return values.detach().float().cpu().numpy()


def symmetric(values: Tensor | np.ndarray) -> float:
    """The largest magnitude: the end of a diverging scale centred at 0."""
    finite = np.abs(np.asarray(values))[np.isfinite(np.asarray(values))]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def diverging(values: Tensor | np.ndarray) -> dict[str, Any]:
    """Heatmap settings for signed values: blue below 0, white at 0, red above, the ends equally far."""
    end = symmetric(values)
    return {"colorscale": DIVERGING, "zmin": -end, "zmax": end, "zmid": 0}


def colorbar(title: str) -> dict[str, Any]:
    """A slim colour bar; the empty line keeps its title off the topmost tick."""
    return {"title": {"text": f"{title}<br> ", "side": "top"}, "thickness": 14}


def finish(figure: go.Figure, title: str, subtitle: str = "", **layout: Any) -> go.Figure:
    """The common layout. `subtitle` says what a reader must know to read the colours: model, tokens, normalisation."""
    lines = 1 + subtitle.count("<br>") if subtitle else 0
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": "#1f2430"},
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 12, "color": "#5b6270"}},
            "x": 0.01,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14},
        },
        margin={"l": 60, "r": 20, "t": 56 + 18 * lines, "b": 50},
        colorway=COLOURS,
        hoverlabel={"font": {"family": FONT}},
    )
    return figure.update_layout(**layout)
