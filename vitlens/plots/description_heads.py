"""Figures of a description's heads and blocks: boards of block × head, sinks, likenesses."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.description.result import Description
from vitlens.description.sinks import SINK_KINDS
from vitlens.errors import InputError
from vitlens.plots.shared.style import (
    COLOURS,
    FEWEST,
    FIELD,
    GRID_ON_PICTURE,
    NEUTRAL,
    ON_FIELD,
    SEQUENTIAL,
    array,
    cell_numbers,
    colorbar,
    finish,
    in_percent,
    percent_ticks,
    text,
)

BOARD_MARGIN = {"l": 40, "r": 20, "t": 112, "b": 40}
#: Facts whose values differ by orders of magnitude: coloured by their logarithm.
LOGARITHMIC = ("sink_concentration",)
#: What the facts are called in figures.
LABELS = {
    "distance": "distance (pixels)",
    "patch_entropy": "entropy of patches' rows (nats)",
    "class_entropy": "entropy of the class token's row (nats)",
    "sink_keys": "keys of the sink",
    "sink_mass": "attention that they receive",
    "sink_patch_mass": "their share of the patches' rows",
    "sink_class_mass": "their share of the class token's row",
    "sink_concentration": "strongest / median key",
    "sink_routed": "queries that give them half or more",
    "sink_value_ratio": "length of what they write / others'",
    "sink_explained": "output explained by them",
    "stable_rank": "stable rank of the output",
}


def distance_by_block(description: Description) -> go.Figure:
    """The mean attention distance of every head, a dot each, over the blocks."""
    values = array(description.fact("distance"))
    n_blocks, n_heads = values.shape
    names = [[f"L{block}H{head}" for head in range(n_heads)] for block in range(n_blocks)]
    figure = go.Figure(
        go.Scatter(
            x=np.repeat(np.arange(n_blocks), n_heads),
            y=values.ravel(),
            mode="markers",
            marker={"color": COLOURS[0], "size": 9, "opacity": 0.85, "line": {"color": NEUTRAL, "width": 1}},
            text=[name for row in names for name in row],
            hovertemplate="%{text}: %{y:.1f} pixels<extra></extra>",
        )
    )
    uniform = _uniform_distance(description)
    figure.add_hline(y=uniform, line={"dash": "dash"})
    figure.update_xaxes(title="block", dtick=1 if n_blocks <= 16 else 2)
    figure.update_yaxes(title="mean attention distance (pixels)", rangemode="tozero")
    return finish(
        figure,
        "How far heads look",
        f"{about(description)}; from patches to patches, a dot for each head; dashed: attention that is everywhere alike",
        height=430,
    )


def distance_boards(description: Description) -> go.Figure:
    """Distance and entropies of every head."""
    facts = [name for name in ("distance", "patch_entropy", "class_entropy") if name in description.facts]
    figure = _boards(description, facts)
    most = np.log(description.settings["n_tokens"])
    return finish(
        figure,
        "How far and how evenly heads look",
        f"{about(description)}; entropy is 0 where all attention goes to one token, and {most:.2f} where to all alike",
        height=figure.layout.height,
        margin=BOARD_MARGIN,
    )


def mass_boards(description: Description) -> go.Figure:
    """The attention of patches, and of the class token, to each kind of token, on one scale."""
    found = description.outlier_counts.any()
    facts = [name for name in description.facts if "_to_" in name and (found or not name.endswith("outliers"))]
    figure = _boards(description, facts, shared=True)
    return finish(
        figure,
        "What heads look at",
        f"{about(description)}; shares of attention, mean over pictures and queries; outliers are patches too",
        height=figure.layout.height,
        margin=BOARD_MARGIN,
    )


def sink_boards(description: Description) -> go.Figure:
    """What every head's strongest keys receive and write."""
    figure = _boards(
        description, [name for name in description.facts if name.startswith("sink_") or name == "stable_rank"]
    )
    rule = description.settings["sink_rule"]
    return finish(
        figure,
        "The strongest keys of every head",
        f"{about(description)}; the strongest key and up to {in_percent(rule['keys'])} of the tokens more that receive "
        f"{rule['times']:g} times the median",
        height=figure.layout.height,
        margin=BOARD_MARGIN,
    )


def sink_board(description: Description) -> go.Figure:
    """Which heads have a sink, of which kind, and at which kind of token."""
    kinds = ["none", *SINK_KINDS]
    found, tokens = description.sink_kind(), description.sink_token()
    codes = np.array([[kinds.index(kind) for kind in row] for row in found], dtype=np.float32).T
    # A letter where there is a sink; where there is none the strongest key is told on hover.
    places = np.array([[token for token in row] for row in tokens]).T
    letters = np.where(codes > 0, np.array([[token[0].upper() for token in row] for row in tokens]).T, "")
    columns = ("sink_routed", "sink_value_ratio", "stable_rank")
    events = array(description.sink_events / description.n_images)
    facts = [array(description.fact(name)) * (100 if name == "sink_routed" else 1) for name in columns]
    details = np.stack([*(100 * share for share in events), *facts], axis=-1).transpose(1, 0, 2)
    shades = (FIELD, COLOURS[0], COLOURS[1], COLOURS[3])
    steps = [[(i + side) / len(kinds), shade] for i, shade in enumerate(shades) for side in (0, 1)]
    figure = go.Figure(
        go.Heatmap(
            z=codes, zmin=-0.5, zmax=len(kinds) - 0.5, colorscale=steps, xgap=2, ygap=2,
            text=letters, texttemplate="%{text}", hovertext=places, customdata=details,
            x=_names(description, "L"), y=_names(description, "H"),
            colorbar={**colorbar(""), "tickvals": list(range(len(kinds))), "ticktext": kinds},
            hovertemplate=(
                "%{x}%{y}<br>strongest key: %{hovertext}<br>pictures with a no-op sink %{customdata[0]:.0f} %, broadcast "
                "%{customdata[1]:.0f} %, other %{customdata[2]:.0f} %<br>queries that give it half or more "
                "%{customdata[3]:.0f} %<br>length of what it writes / others' %{customdata[4]:.2f}<br>"
                "stable rank of the output %{customdata[5]:.2f}<extra></extra>"
            ),
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", title="head")
    figure.update_xaxes(title="block")
    shown = dict.fromkeys(places[codes > 0].tolist())
    legend = ", ".join(f"{token[0].upper()} {token}" for token in shown) or "no head has a sink"
    rule = description.settings["sink_rule"]
    return finish(
        figure,
        "Attention sinks",
        f"{about(description)}; in at least half of the pictures {in_percent(rule['queries'])} of the queries give "
        f"{in_percent(rule['attention'])} or more to a few keys<br>no-op: they write at most {rule['no_op']:g} of what "
        f"others do; broadcast: at least {rule['broadcast']:g}, and the output has a stable rank of at most "
        f"{rule['rank']:g}<br>strongest key: {legend}",
        height=max(260, 190 + 24 * codes.shape[0]),
    )


def head_similarity_matrix(description: Description) -> go.Figure:
    """The mean cosine between the patterns of every two heads of the model."""
    n_heads, n_blocks = len(description.axes["head"]), len(description.axes["block"])
    names = [f"L{block}H{head}" for block in range(n_blocks) for head in range(n_heads)]
    figure = go.Figure(
        go.Heatmap(
            z=array(description.head_similarity), zmin=0, zmax=1, colorscale=SEQUENTIAL, colorbar=colorbar("cosine"),
            hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
            customdata=np.array([[f"{a} and {b}" for b in names] for a in names]) if len(names) <= 200 else None,
        )
    )  # fmt: skip
    for block in range(1, n_blocks):
        edge = block * n_heads - 0.5
        line = {"color": GRID_ON_PICTURE, "width": 1}
        figure.add_shape(type="line", x0=edge, x1=edge, y0=-0.5, y1=len(names) - 0.5, line=line)
        figure.add_shape(type="line", y0=edge, y1=edge, x0=-0.5, x1=len(names) - 0.5, line=line)
    ticks = {
        "tickvals": [block * n_heads + (n_heads - 1) / 2 for block in range(n_blocks)],
        "ticktext": _names(description, "L"),
        "showgrid": False,
        "constrain": "domain",
    }
    figure.update_xaxes(**ticks)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", **ticks)
    compared, n_tokens = description.settings["similarity_queries"], description.settings["n_tokens"]
    rows = "all rows" if compared == n_tokens else f"{compared} of {n_tokens} rows"
    return finish(
        figure,
        "Which heads look alike",
        f"{about(description)}; mean over pictures of the cosine of two patterns ({rows})",
        height=560,
    )


def cka_matrix(description: Description) -> go.Figure:
    """Linear CKA between the blocks of the model.

    Raises:
        InputError: there were fewer than 4 pictures.
    """
    if description.cka is None:
        raise InputError(f"CKA needs at least 4 pictures, and {description.n_images} were described")
    return _likeness(description, description.cka, "How alike blocks represent pictures", "block", "block")


def cka_against_matrix(description: Description) -> go.Figure:
    """Linear CKA between the blocks of the model and those of the model that it was described against.

    Raises:
        InputError: there was none, or fewer than 4 pictures.
    """
    if description.cka_against is None:
        raise InputError("there is no CKA between two models: describe at least 4 pictures with other_model=")
    other = description.settings["other_model"]
    title = "How alike two models represent pictures"
    return _likeness(description, description.cka_against, title, text(description.settings["model"]), text(other))


def _likeness(
    description: Description, values: Float[Tensor, "block other"], title: str, rows: str, columns: str
) -> go.Figure:
    few = description.n_images < FEWEST
    figure = go.Figure(
        go.Heatmap(
            z=array(values), zmin=0, zmax=1, colorscale=[[0, FIELD], [1, FIELD]] if few else SEQUENTIAL, showscale=not few,
            colorbar=colorbar("CKA"), text=cell_numbers(values) if values.numel() <= 200 else None,
            texttemplate="%{text}" if values.numel() <= 200 else None, textfont={"color": ON_FIELD} if few else None,
            hovertemplate="block %{y} and block %{x}: %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    square = {"dtick": 1 if max(values.shape) <= 24 else 4, "constrain": "domain", "showgrid": False}
    figure.update_xaxes(title=columns, **square)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", title=rows, **square)
    what = {"class": "class token", "patches": "mean over the patches"}[description.settings["cka_tokens"]]
    return finish(
        figure,
        title,
        f"{about(description)}; linear CKA of the stream after each block ({what}), unbiased, minibatches of "
        f"{min(description.settings['cka_rows'], description.n_images)}"
        + (
            f"<br>too few pictures to compare blocks: below {FEWEST} the values scatter, even below 0, and have no colour"
            * few
        ),
        height=540,
    )


def _boards(description: Description, facts: Sequence[str], shared: bool = False) -> go.Figure:
    """Block × head boards side by side, on one scale from 0 to 1 or each on its own."""
    n_columns = min(3, len(facts))
    n_rows = -(-len(facts) // n_columns)
    n_heads = len(description.axes["head"])
    each = max(110, min(16 * n_heads, 320))
    figure = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[_label(name) for name in facts],
        horizontal_spacing=0.04 if shared else 0.1,
        vertical_spacing=min(0.25, 62 / (n_rows * (each + 62))) if n_rows > 1 else 0.1,
    )
    for i, name in enumerate(facts):
        row, col = i // n_columns + 1, i % n_columns + 1
        axes = figure.get_subplot(row, col)
        across, along = axes.xaxis.domain, axes.yaxis.domain
        bar = {**colorbar(""), "x": across[1] + 0.004, "len": along[1] - along[0], "y": sum(along) / 2, "thickness": 9}
        values = description.fact(name).T
        if name in LOGARITHMIC:
            powers = range(int(values.log10().amax()) + 1)
            bar |= {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}
        scale = {"coloraxis": "coloraxis"} if shared else {"colorscale": SEQUENTIAL, "colorbar": bar}
        board = go.Heatmap(
            z=array(values.log10() if name in LOGARITHMIC else values), customdata=array(values),
            x=_names(description, "L"), y=_names(description, "H"), xgap=1, ygap=1,
            hovertemplate=f"%{{x}}%{{y}}: {_label(name)} %{{customdata:.3~g}}<extra></extra>", **scale,
        )  # fmt: skip
        figure.add_trace(board, row=row, col=col)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=0)
    if shared:
        bar = colorbar("share of<br>attention") | percent_ticks()
        figure.update_layout(coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": bar})
    return figure.update_layout(height=170 + n_rows * (each + 62))


def _label(name: str) -> str:
    """A fact's name as it is read: "patch_to_class" is "patches → class"."""
    if "_to_" in name:
        query, key = name.split("_to_")
        queries = "patches" if query == "patch" else "class token"
        return f"{queries} → {text(key)}"
    return LABELS.get(name, name)


def _names(description: Description, letter: str) -> list[str]:
    return [f"{letter}{i}" for i in description.axes["block" if letter == "L" else "head"]]


def _uniform_distance(description: Description) -> float:
    """The mean distance between two patches: what a head that looks everywhere alike has."""
    rows, columns = description.settings["grid"]
    height, width = description.settings["patch_size"]
    y, x = np.meshgrid(np.arange(rows) * height, np.arange(columns) * width, indexing="ij")
    places = np.stack([y.ravel(), x.ravel()], axis=-1)
    return float(np.linalg.norm(places[:, None] - places[None], axis=-1).mean())


def about(description: Description) -> str:
    """The model and how many pictures: the first words of every subtitle."""
    n = description.n_images
    return f"{text(description.settings['model'])}, {n:,} picture{'s' * (n != 1)}"
