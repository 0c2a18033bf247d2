"""One range for every quantity on a page: the same colour is the same number in all its figures."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from vitlens.plots.shared.style import percent_ticks

#: At the end of a colour bar's title: the numbers of two such maps cannot be compared, so each has its own ends.
OWN_SCALE = "own scale"


def one_range(figures: Sequence[go.Figure]) -> list[go.Figure]:
    """The figures, those of whose colour scales others of the same quantity have other ends as copies with common ends."""
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for figure in figures:
        for scale, (low, high) in _scales(figure):
            ends[quantity(scale)].append((float(scale[low]), float(scale[high])))
    common = {name: (min(low for low, _ in pairs), max(high for _, high in pairs)) for name, pairs in ends.items()}
    return [_with_ends(figure, common) for figure in figures]


def quantity(scale: Any) -> str:
    """What a colour scale shows, by the title of its bar."""
    return str(scale.colorbar.title.text or "").removesuffix("<br> ")


def _with_ends(figure: go.Figure, common: dict[str, tuple[float, float]]) -> go.Figure:
    if all((scale[low], scale[high]) == common[quantity(scale)] for scale, (low, high) in _scales(figure)):
        return figure
    changed = go.Figure(figure)
    for scale, (low, high) in _scales(changed):
        scale[low], scale[high] = common[quantity(scale)]
        if scale.colorbar.ticktext:
            scale.colorbar.update(percent_ticks(scale[high]))
    return changed


def _scales(figure: go.Figure) -> list[tuple[Any, tuple[str, str]]]:
    """What has a titled colour bar and two ends, and what its ends are called."""
    maps = [
        trace
        for trace in figure.data
        if trace.type == "heatmap" and trace.coloraxis is None and trace.showscale is not False
    ]
    axes = [figure.layout[name] for name in figure.layout if name.startswith("coloraxis")]
    found = [(trace, ("zmin", "zmax")) for trace in maps] + [(axis, ("cmin", "cmax")) for axis in axes]
    return [
        (scale, (low, high))
        for scale, (low, high) in found
        if quantity(scale) and not quantity(scale).endswith(OWN_SCALE) and None not in (scale[low], scale[high])
    ]
