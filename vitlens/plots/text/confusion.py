"""Which texts pictures of each class are nearest to."""

import plotly.graph_objects as go

from vitlens.data.class_names import short_name
from vitlens.plots.shared.style import SEQUENTIAL, array, colorbar, finish, in_percent, percent_ticks, text
from vitlens.text.accuracy import ZeroShotAccuracy

#: More names than this do not fit beside a board.
MOST_BESIDE_BOARD = 40


def confusion_board(found: ZeroShotAccuracy) -> go.Figure:
    """The share of each class's pictures that is nearest to each text: right ones lie on the diagonal."""
    names = [text(short_name(name), 28) for name in found.axes["label"]]
    shares, places = found.shares(), list(range(len(names)))
    figure = go.Figure(
        go.Heatmap(
            z=array(shares),
            x=places,
            y=places,
            customdata=[[_of_class(n, sum(row)) for n in row] for row in found.values.tolist()],
            text=[[f"“{label}”, nearest to “{other}”" for other in names] for label in names],
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=1,
            colorbar=colorbar("share of<br>the class") | percent_ticks(),
            hovertemplate="%{text}: %{customdata}<extra></extra>",
        )
    )
    shown = places[:: max(1, -(-len(places) // MOST_BESIDE_BOARD))]
    ticks = {"tickvals": shown, "ticktext": [names[i] for i in shown]}
    figure.update_xaxes(title="nearest text", tickangle=-60, **ticks)
    figure.update_yaxes(title={"text": "class", "standoff": 12}, automargin=True, autorange="reversed", **ticks)
    first = found.table().iloc[0]
    return finish(
        figure,
        "Which text a picture is nearest to",
        f"{text(found.settings['model'])}; {first['n']:,} pictures; right: {in_percent(first['accuracy'], 1)} "
        f"({in_percent(first['low'], 1)} to {in_percent(first['high'], 1)}), the commonest class: "
        f"{in_percent(first['baseline'], 1)}",
        height=240 + 14 * max(12, min(60, len(names))),
        margin={"l": 190, "r": 20, "t": 92, "b": 140},
    )


def _of_class(n: int, n_of_class: int) -> str:
    """A count of pictures, and its share of the class where that has any."""
    return f"{n:,} pictures" + (f", {in_percent(n / n_of_class)}" if n_of_class else "")
