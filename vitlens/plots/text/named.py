"""Figures of names for features, and of the words of a picture."""

import math

import plotly.graph_objects as go

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.runs.picture_run import check_index
from vitlens.plots.shared.style import COLOURS, NEUTRAL, RAISES, finish, text
from vitlens.statistics import with_interval
from vitlens.text.names.features import FeatureNames
from vitlens.text.sparse_codes.words import SparseWords


def name_areas(result: FeatureNames, k: int = 15) -> go.Figure:
    """How well names tell features: how often a name's similarity is larger where the feature is active.

    The k features whose intervals have the highest lower ends. Features without a name follow in grey: the areas are those
    of their first texts, which are no better than chance, and withheld.
    """
    check_count(k, "k")
    first = {name: part[:, 0].tolist() for name, part in result.columns().items()}
    is_name = result.is_name[:, 0].tolist()
    there = [row for row, area in enumerate(first["auc"]) if not math.isnan(area)]
    if not there:
        raise InputError("no feature is active in some of the pictures and not in others: there is nothing to draw")
    # By what is certain: an area without an interval is that of one picture.
    low = [0.0 if math.isnan(end) else end for end in first["low"]]
    rows = sorted(there, key=lambda row: (not is_name[row], -low[row]))[:k]
    names = [text(result.texts[row][0], 36) if is_name[row] else "–" for row in rows]
    labels = [f"{text(result.axes['feature'][row])}: {name}" for row, name in zip(rows, names, strict=True)]
    told = [
        f"{label}<br>area {with_interval(*(first[part][row] for part in ('auc', 'low', 'high')))}<br>"
        f"p {first['p'][row]:.3g}, active in {int(result.n_active[row])} pictures"
        for label, row in zip(labels, rows, strict=True)
    ]
    areas, low, high = ([first[part][row] for row in rows] for part in ("auc", "low", "high"))
    reach = {
        "array": [0.0 if math.isnan(end) else end - area for area, end in zip(areas, high, strict=True)],
        "arrayminus": [0.0 if math.isnan(start) else area - start for area, start in zip(areas, low, strict=True)],
    }
    figure = go.Figure(
        go.Scatter(
            x=areas, y=list(range(len(rows))), mode="markers", customdata=told,
            marker={"color": [COLOURS[0] if is_name[row] else NEUTRAL for row in rows], "size": 9},
            error_x={**reach, "thickness": 1, "width": 3, "color": NEUTRAL},
            hovertemplate="%{customdata}<extra></extra>",
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
        f"{sum(is_name)} of {len(is_name)} have a name, others’ (grey) are withheld; 95 % intervals",
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
