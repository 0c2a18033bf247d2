"""Figures of names for features, and of the words of a picture."""

import math

import plotly.graph_objects as go

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.runs.picture_run import check_index
from vitlens.plots.shared.style import COLOURS, NEUTRAL, RAISES, finish, text
from vitlens.statistics import with_interval
from vitlens.text.feature_names import FeatureNames
from vitlens.text.sparse_concepts import SparseWords


def name_areas(result: FeatureNames, k: int = 15) -> go.Figure:
    """The k features that their first names tell best: how often a name's similarity is larger where the feature is active.

    Ordered by the lower ends of the intervals. Features whose names are withheld are left out.
    """
    check_count(k, "k")
    named = (result.is_name[:, 0] & ~result.auc[:, 0].isnan()).nonzero()[:, 0].tolist()
    if not named:
        raise InputError("no feature has a name that beats chance: there is nothing to draw")
    # By what is certain: an area without an interval is that of one picture.
    rows = sorted(named, key=lambda row: -float(result.low[row, 0].nan_to_num(0.0)))[:k]
    areas, low, high = ([float(part[row, 0]) for row in rows] for part in (result.auc, result.low, result.high))
    labels = [f"{text(result.axes['feature'][row])}: {text(result.texts[row][0], 36)}" for row in rows]
    told = [
        f"{label}<br>area {with_interval(area, start, end)}<br>active in {int(result.n_active[row])} pictures"
        for label, area, start, end, row in zip(labels, areas, low, high, rows, strict=True)
    ]
    reach = {
        "array": [0.0 if math.isnan(end) else end - area for area, end in zip(areas, high, strict=True)],
        "arrayminus": [0.0 if math.isnan(start) else area - start for area, start in zip(areas, low, strict=True)],
    }
    figure = go.Figure(
        go.Scatter(
            x=areas, y=list(range(len(rows))), mode="markers", customdata=told, marker={"color": COLOURS[0], "size": 9},
            error_x={**reach, "thickness": 1, "width": 3}, hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(rows))), ticktext=labels)
    figure.update_xaxes(title="area under the curve: 1 tells all pictures apart, ½ none")
    figure.add_vline(x=0.5, line={"width": 1, "color": NEUTRAL})
    about = result.settings
    return finish(
        figure,
        "Features and their names",
        f"{text(about['hook'])}, {about['pictures']:,} pictures, {len(result.vocabulary):,} texts<br>"
        f"{len(named)} of {len(result.values)} have a name; 95 % intervals",
        height=170 + 24 * max(3, len(rows)),
        margin={"l": 90, "r": 20, "t": 104, "b": 50},
    )


def word_bars(result: SparseWords, image: int = 0, k: int = 15) -> go.Figure:
    """The words of a picture and their weights."""
    check_index(image, len(result.values), "picture")
    check_count(k, "k")
    words = result.words(image)
    if not words:
        raise InputError(f"picture {image} has no words: lower sparsity=")
    names, weights = list(words)[:k], list(words.values())[:k]
    figure = go.Figure(
        go.Bar(
            x=weights, y=list(range(len(names))), orientation="h", customdata=[text(name) for name in names],
            marker={"color": RAISES}, hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(
        autorange="reversed", tickvals=list(range(len(names))), ticktext=[text(name, 36) for name in names]
    )
    figure.update_xaxes(title=result.quantity)
    return finish(
        figure,
        "A picture as a sum of words",
        f"picture {text(result.axes['image'][image])}, {len(words)} of {len(result.vocabulary):,} words<br>"
        f"cosine with their sum {float(result.cosine[image]):.2f}, as many words turned at random "
        f"{float(result.baseline[image]):.2f}",
        height=170 + 24 * max(3, len(names)),
        margin={"l": 90, "r": 20, "t": 104, "b": 50},
    )
