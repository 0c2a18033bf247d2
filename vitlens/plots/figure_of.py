"""Chooses the figure of a result: that of its chapter, without importing other chapters."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, util
from typing import Any

import plotly.graph_objects as go
from plotly.colors import named_colorscales

from vitlens.arguments import check_count, short
from vitlens.errors import InputError, nearest
from vitlens.plots.shared.picture import GLAZE, SIGNED_GLAZE
from vitlens.plots.shared.style import SEQUENTIAL
from vitlens.results.result import Drawable

#: Pixels of the least figure that plotly draws.
SMALLEST = 10
#: What every figure takes, whatever it shows.
FOR_ALL = ("title", "colorscale", "width", "height")
#: How opaque a user's own colours are over a picture.
OVER_PICTURE = 0.6
ColorScale = str | Sequence[str] | Sequence[tuple[float, str]]


def plot(
    result: Drawable,
    kind: str | None = None,
    *,
    title: str | None = None,
    colorscale: ColorScale | None = None,
    width: int | None = None,
    height: int | None = None,
    **options: Any,
) -> go.Figure:
    """The figure of a result, as `result.plot()` draws it.

    A chapter's figures are in the module of its name here, whose `FIGURES` has a function for each class of results.

    Args:
        kind: of results that have several figures, which one.
        title: in place of the figure's own.
        colorscale: a name of plotly's, such as "Cividis", or a list of colours, for maps and boards of numbers.
        width, height: in pixels.
        options: those of the figure's own function.

    Raises:
        InputError: there is no figure of such a result, or none of this kind; an option that it does not have; no such
            colour scale, or a figure without one.
    """
    for ancestor in type(result).__mro__:
        package, *chapter = ancestor.__module__.split(".")[:2]
        if package != "vitlens" or not chapter or not util.find_spec(f"vitlens.plots.{chapter[0]}"):
            continue
        figures = import_module(f"vitlens.plots.{chapter[0]}").FIGURES
        if ancestor in figures:
            function = choose(figures[ancestor], result, kind)
            _check_options(function, options, figures[ancestor])
            return _changed(function(result, **options), title, colorscale, width, height)
    raise InputError(f"there is no figure for a {type(result).__name__} yet; to_frame() gives its numbers")


def choose(figures: Any, result: Drawable, kind: str | None) -> Any:
    """The figure called `kind`, by default the first; a single one needs no name."""
    if not isinstance(figures, dict):
        if kind is not None:
            raise InputError(f"a {type(result).__name__} has one kind of figure: leave kind= out")
        return figures
    if kind is not None and kind not in figures:
        raise InputError(f"a {type(result).__name__} has no figure {kind!r}; it has {', '.join(figures)}")
    return figures[kind or next(iter(figures))]


def _check_options(function: Callable[..., go.Figure], options: Mapping[str, Any], figures: Any) -> None:
    """Raises InputError where the figure has no such option, with the kind of figure that has it."""
    own = _options(function)
    for option in options:
        if option not in own:
            kinds = figures if isinstance(figures, dict) else {}
            able = [kind for kind, other in kinds.items() if option in _options(other)]
            hint = f"; plot({able[0]!r}, {option}=…) has it" if able else ""
            raise InputError(f"this figure has no option {option!r}: it has {', '.join((*own, *FOR_ALL))}{hint}")


def _options(function: Callable[..., go.Figure]) -> list[str]:
    """What a figure's function takes besides its result."""
    return list(inspect.signature(function).parameters)[1:]


def _changed(
    figure: go.Figure, title: str | None, colorscale: ColorScale | None, width: int | None, height: int | None
) -> go.Figure:
    """The figure as the user wants it: what every figure takes is set here, once for all."""
    for side, pixels in {"width": width, "height": height}.items():
        if pixels is not None:
            figure.update_layout({side: check_count(pixels, side, SMALLEST)})
    if title is not None:
        if not isinstance(title, str):
            raise InputError(f"title is text, not {short(title)}")
        figure.update_layout(title_text=title)
    if colorscale is not None:
        _set_colorscale(figure, colorscale)
    return figure


def _set_colorscale(figure: go.Figure, colorscale: ColorScale) -> None:
    """Replaces the scales of numbers. Colours that stand for kinds or classes stay."""
    over_pictures = [go.Heatmap(colorscale=scale).colorscale for scale in (GLAZE, SIGNED_GLAZE)]
    own = (None, go.Heatmap(colorscale=SEQUENTIAL).colorscale, *over_pictures)
    traces = [trace for trace in figure.data if trace.type == "heatmap" and trace.colorscale in own]
    if figure.layout.images:
        # Other scales hide what is under them.
        for trace in traces:
            trace.opacity = min(OVER_PICTURE, 1.0 if trace.opacity is None else trace.opacity)
    if not traces:
        raise InputError("this figure has no colour scale: leave colorscale= out")
    try:
        for part in (*traces, figure.layout.coloraxis):
            part.colorscale = colorscale
    except ValueError:
        wanted = short(colorscale)
        near = nearest(str(colorscale).lower(), named_colorscales())
        raise InputError(
            f"colorscale is a list of colours, or a name of plotly's: not {wanted}; the nearest names are {near}"
        ) from None
