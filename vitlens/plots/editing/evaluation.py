"""Figures of evaluated edits: how often each group is right, and how the logits of all classes move."""

import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vitlens.data.class_names import short_name
from vitlens.editing.evaluation import UNEDITED, EditEvaluation
from vitlens.errors import InputError
from vitlens.plots.shared.series import SYMBOLS, legend_below
from vitlens.plots.shared.style import COLOURS, NEUTRAL, array, colorbar, diverging, finish, in_percent, text

#: Groups have the colours that are not the grey of baselines.
GROUP_COLOURS = tuple(i for i, colour in enumerate(COLOURS) if colour != NEUTRAL)
#: Letters of a line of an edit's name: a phone holds one beside the figure.
NAME_LINE = 24
#: Pixels of a row of a board, and between two boards.
BOARD_ROW, BETWEEN_BOARDS = 26, 44


def edit_accuracies(
    result: EditEvaluation, edits: Sequence[str] | None = None, level: float = 0.95, n_draws: int = 1000, seed: int = 0
) -> go.Figure:
    """How often each group is right with each edit, with its interval; dotted: without an edit.

    Args:
        edits: which edits are shown, by name; by default all.
        level, n_draws, seed: of the intervals, as in `EditEvaluation.table`.

    Raises:
        InputError: an edit that was not evaluated.
    """
    shown = _chosen(result, edits)
    table = result.table(level, n_draws, seed)
    rows, n_groups = {name: i for i, name in enumerate(shown)}, len(result.groups)
    figure = go.Figure()
    for place, group in enumerate(result.groups):
        of_group = table[table["group"] == group].set_index("edit")
        some = of_group.loc[shown]
        colour = GROUP_COLOURS[place % len(GROUP_COLOURS)]
        figure.add_vline(
            x=100 * of_group.loc[UNEDITED, "accuracy"], line={"color": COLOURS[colour], "width": 1, "dash": "dot"}
        )
        figure.add_trace(
            go.Scatter(
                x=100 * some["accuracy"],
                y=[rows[name] + 0.5 * ((place + 0.5) / n_groups - 0.5) for name in shown],
                name=text(group),
                mode="markers",
                marker={"color": COLOURS[colour], "size": 8, "symbol": SYMBOLS[colour % len(SYMBOLS)]},
                error_x={
                    "type": "data", "symmetric": False, "array": 100 * (some["high"] - some["accuracy"]),
                    "arrayminus": 100 * (some["accuracy"] - some["low"]), "thickness": 1.2, "width": 0,
                },
                customdata=np.stack([100 * some["low"], 100 * some["high"], some["n"]], axis=-1),
                text=[text(name, 80) for name in shown],
                hovertemplate=f"%{{text}}<br>{text(group)}: %{{x:.1f}} % of %{{customdata[2]:,}} pictures<br>"
                f"{in_percent(level)} interval %{{customdata[0]:.1f}} % to %{{customdata[1]:.1f}} %<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title="accuracy (%)", zeroline=False)
    figure.update_yaxes(**edit_ticks(shown), zeroline=False, showgrid=False)
    return legend_below(
        finish(
            figure,
            "How often each group is right, edit by edit",
            f"{text(result.settings['model'])}; {len(result.of_image):,} pictures, {in_percent(level)} intervals<br>"
            "dotted: the model without an edit",
            height=180 + len(shown) * (12 + 14 * n_groups),
            margin={"l": 60, "r": 20, "t": 92, "b": 90},
        )
    )


def edit_changes(result: EditEvaluation, edits: Sequence[str] | None = None, k: int = 12) -> go.Figure:
    """The mean change of each class's logit in each group: of which classes an edit also moves the answer.

    Args:
        edits: which edits are shown, by name; by default all.
        k: how many classes are shown, those whose logits change most in any group.

    Raises:
        InputError: an edit that was not evaluated, or k below 1.
    """
    if k < 1:
        raise InputError(f"k is how many classes are shown, at least 1, not {k}")
    shown = [name for name in _chosen(result, edits) if name != UNEDITED]
    places = [result.axes["edit"].index(name) for name in shown]
    changes = result.changes[places]
    largest = changes.abs().amax(dim=(0, 1))
    classes = sorted(largest.argsort(descending=True, stable=True)[:k].tolist())
    values = changes[:, :, classes]
    names = result.class_names
    columns = [text(f"class {i}" if names is None else short_name(names[i]), 20) for i in classes]
    n_groups, height = len(result.groups), BOARD_ROW * max(4, len(shown))
    all_boards = n_groups * height + (n_groups - 1) * BETWEEN_BOARDS
    figure = make_subplots(
        n_groups, 1, shared_xaxes=True, subplot_titles=[text(group) for group in result.groups],
        vertical_spacing=BETWEEN_BOARDS / all_boards,
    )  # fmt: skip
    for place, group in enumerate(result.groups):
        figure.add_trace(
            go.Heatmap(
                z=array(values[:, place]),
                # By number: names that are cut to the same letters are still two columns.
                x=list(range(len(columns))),
                hovertext=[[f"{text(name, 80)}<br>{text(group)}, “{column}”" for column in columns] for name in shown],
                coloraxis="coloraxis",
                hovertemplate="%{hovertext}: %{z:+.4f}<extra></extra>",
                xgap=1,
                ygap=1,
            ),
            row=place + 1,
            col=1,
        )
    figure.update_yaxes(**edit_ticks(shown), zeroline=False, showgrid=False)
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=columns, tickangle=-60, showgrid=False)
    ends = diverging(values)
    n_classes = result.changes.shape[-1]
    some = (
        f"the {len(columns)} of {n_classes:,} classes that change most" if len(columns) < n_classes else "all classes"
    )
    return finish(
        figure,
        "How edits move the logits of all classes",
        f"{text(result.settings['model'])}; {len(result.of_image):,} pictures; {some}<br>"
        "mean over the pictures of a group, against the unedited model",
        coloraxis={
            "cmin": ends["zmin"], "cmax": ends["zmax"], "cmid": 0,
            "colorbar": colorbar("change of<br>the logit"),
        },
        height=214 + all_boards,
        margin={"l": 60, "r": 20, "t": 124, "b": 90},
    )  # fmt: skip


def edit_ticks(names: Sequence[str]) -> dict[str, object]:
    """An axis of edits from above, each at its number: names cut to the same letters are still two rows."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [in_lines(name) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "automargin": True,
    }


def in_lines(name: str) -> str:
    """An edit's name in at most two short lines, with its end, where the dose is."""
    lines = textwrap.wrap(name, NAME_LINE)
    kept = lines if len(lines) <= 2 else [lines[0], f"… {lines[-1]}"]
    return "<br>".join(text(line) for line in kept)


def _chosen(result: EditEvaluation, edits: Sequence[str] | None) -> list[str]:
    known = result.axes["edit"]
    if edits is None:
        return list(known)
    wanted = [edits] if isinstance(edits, str) else list(edits)
    missing = next((name for name in wanted if name not in known), None)
    if missing is not None or not wanted:
        raise InputError(f"no edit was evaluated as {missing!r}: these were: {', '.join(known)}")
    return wanted
