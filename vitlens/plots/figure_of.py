"""`plot(result)`: the figure of a result is one of its chapter's, and no other chapter is imported for it."""

from importlib import import_module, util
from typing import Any

import plotly.graph_objects as go

from vitlens.errors import InputError
from vitlens.results.result import Drawable


def plot(result: Drawable, kind: str | None = None, **options: Any) -> go.Figure:
    """The figure of a result: `kind` names one where there are several, options are those of the figure's own function.

    A chapter's figures are in the module of its name here, whose `FIGURES` has a function for each class of results.

    Raises:
        InputError: there is no figure of such a result, or none of this kind.
    """
    for ancestor in type(result).__mro__:
        package, *chapter = ancestor.__module__.split(".")[:2]
        if package != "vitlens" or not chapter or not util.find_spec(f"vitlens.plots.{chapter[0]}"):
            continue
        figures = import_module(f"vitlens.plots.{chapter[0]}").FIGURES
        if ancestor in figures:
            return choose(figures[ancestor], result, kind)(result, **options)
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
