"""Figures of a repair: what it does at each dose beside its baselines, and which candidates there were."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from vitlens.editing.evaluation import UNEDITED
from vitlens.editing.repairs import RETRAINED, UNLIMITED, Repair
from vitlens.plots.editing.evaluation import GROUP_COLOURS, edit_ticks
from vitlens.plots.shared.series import SYMBOLS, legend_below, line
from vitlens.plots.shared.style import (
    COLOURS,
    FIELD,
    LOWERS,
    NEUTRAL,
    ON_FIELD,
    RAISES,
    finish,
    in_percent,
    pale,
    symmetric,
    text,
    true_minus,
)

#: What stands to the right of the doses, as it is written below the axis, and the room of each as a share of the axis.
BESIDE_DOSES = {UNLIMITED: "without<br>a limit", RETRAINED: "last layer<br>retrained"}
BESIDE = 0.25
#: Candidates with the same two numbers are one point, which names so many of them.
NAMES_OF_A_POINT = 8


def dose_curves(repair: Repair) -> go.Figure:
    """How often each group of the report is right, by dose of the chosen edit; dose 0 is the unedited model.

    Grey: random edits of the same kind and norm as the chosen one. To the right: the edit that would have been chosen
    without a limit, where it is another, and the model with its last layer retrained.
    """
    table, chosen = repair.table(), repair.dose
    doses = {UNEDITED: 0.0, **repair.doses}
    ends = min(doses.values()), max(doses.values())
    span = ends[1] - ends[0] or 1.0
    known = [name for name in BESIDE_DOSES if name in repair.report.axes["edit"]]
    beside = {name: ends[1] + (i + 0.8) * BESIDE * span for i, name in enumerate(known)}
    figure = go.Figure()
    if chosen is not None:
        figure.add_vline(
            x=chosen, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, annotation_text=f"chosen: {chosen:g}",
            annotation_position="top", annotation_font_size=11,
        )  # fmt: skip
    for place, group in enumerate(repair.report.groups):
        rows = table[table["group"] == group].set_index("edit")
        colour = GROUP_COLOURS[place % len(GROUP_COLOURS)]
        if chosen is None:
            figure.add_trace(_beside(UNEDITED, rows.loc[UNEDITED], text(group), colour, 0.0, legend=True))
        else:
            curve = rows.loc[list(doses)].assign(dose=list(doses.values())).sort_values("dose")
            percent = (100 * curve[["accuracy", "low", "high"]]).assign(dose=curve["dose"])
            line(figure, percent, "dose", text(group), colour, y="accuracy", hover="%{y:.1f} %")
            figure.add_trace(_random(repair, place, chosen + 0.03 * span))
        # Side by side: bars of one place would cover each other.
        aside = 0.03 * span * (place - (len(repair.report.groups) - 1) / 2)
        for name, x in beside.items():
            figure.add_trace(_beside(name, rows.loc[name], text(group), colour, x + aside))
    ticks = sorted(doses.values())
    figure.update_xaxes(
        title="dose of the edit", zeroline=False, tickvals=[*ticks, *beside.values()], tickangle=0,
        ticktext=[*(f"{dose:g}" for dose in ticks), *(BESIDE_DOSES[name] for name in beside)],
        range=[ends[0] - 0.06 * span, max(beside.values(), default=ends[-1]) + 0.14 * span],
    )  # fmt: skip
    figure.update_yaxes(title="accuracy (%)", zeroline=False)
    random = f"; grey: {len(repair.random)} random edits of its kind and norm" if chosen is not None else ""
    what = "no edit was better, so the unedited model stays" if chosen is None else text(repair.chosen, 70)
    return legend_below(
        finish(
            figure,
            "How often each group is right, by dose",
            f"{text(repair.report.settings['model'])}; {what}<br>{len(repair.report.of_image):,} held-out pictures; "
            f"bands and bars: 95 % intervals{random}",
            height=520,
            margin={"l": 60, "r": 20, "t": 118, "b": 110},
        )
    )  # fmt: skip


def repair_trade_off(repair: Repair) -> go.Figure:
    """All candidates on the pictures for choosing: the worst group's accuracy against the largest loss of another group.

    Right of the dashed line an edit may cost a group more than was allowed: the upper end of the interval counts. The star
    is the chosen edit.
    """
    table = repair.trade_off()
    points = table.assign(loss=100 * table["largest_loss"], worst=100 * table["worst_group"]).round(
        {"loss": 6, "worst": 6}
    )
    limit = np.inf if repair.max_loss is None else 100 * repair.max_loss
    chosen = points[points["edit"] == repair.chosen]
    unedited = points[points["edit"] == UNEDITED]
    others = points[~points["edit"].isin([repair.chosen, UNEDITED])]
    allowed = others["loss"] <= limit + 1e-6
    figure = go.Figure()
    looks: list[tuple[str, pd.DataFrame, dict[str, Any]]] = [
        ("beyond the limit", others[~allowed], {"color": NEUTRAL, "symbol": "circle-open", "size": 9}),
        ("tried", others[allowed], {"color": COLOURS[0], "symbol": "circle", "size": 9}),
        (UNEDITED, unedited, {"color": COLOURS[2], "symbol": "diamond", "size": 11}),
        ("chosen", chosen[chosen["edit"] != UNEDITED], {"color": COLOURS[1], "symbol": "star", "size": 16}),
    ]
    for name, some, marker in looks:
        if len(some):
            figure.add_trace(_candidates(name, some, marker))
    if repair.max_loss is not None:
        figure.add_vline(
            x=limit,
            line={"color": NEUTRAL, "dash": "dash", "width": 1},
            annotation_text=f"limit: {limit:g} point{'s' * (limit != 1)}",
            annotation_position="bottom right",
            annotation_font_size=11,
        )
    figure.update_xaxes(title="largest loss of another group (points, upper end of its 95 % interval)", zeroline=False)
    figure.update_yaxes(title="accuracy of the worst group (%)", zeroline=False)
    named = "no edit was better within the limit" if repair.edit is None else f"chosen: {text(repair.chosen, 70)}"
    return legend_below(
        finish(
            figure,
            "What each edit gains and costs",
            f"{text(repair.candidates.settings['model'])}; {len(table) - 1} edit{'s' * (len(table) > 2)} on the "
            f"{len(repair.candidates.of_image):,} pictures for choosing<br>{named}",
            height=480,
            margin={"l": 60, "r": 20, "t": 98, "b": 100},
        )
    )  # fmt: skip


def repair_table(repair: Repair, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> go.Figure:
    """The report as a table: each group's accuracy, and its change against the unedited model with an interval.

    Bold: the whole interval lies on one side of 0.
    """
    table = repair.table(level, n_draws, seed)
    names, groups = list(dict.fromkeys(table["edit"])), repair.report.groups
    cells = [[table[(table["edit"] == name) & (table["group"] == group)].iloc[0] for group in groups] for name in names]
    moved = np.array([[100 * cell["change"] for cell in row] for row in cells])
    figure = go.Figure(
        go.Heatmap(
            # From the largest fall, 0, to the largest rise, 1: fields that hold dark text, in either theme.
            z=0.5 + 0.5 * moved / symmetric(moved),
            x=[f"{text(group, 24)}<br>n = {cell['n']:,.0f}" for group, cell in zip(groups, cells[0], strict=True)],
            text=[[_cell(cell) for cell in row] for row in cells],
            texttemplate="%{text}",
            textfont={"size": 12, "color": ON_FIELD},
            customdata=[
                [
                    [100 * cell[name] for name in ("change", "low", "high")] + [cell["margin"], cell["kl"]]
                    for cell in row
                ]
                for row in cells
            ],
            hovertext=[[text(name, 80)] * len(groups) for name in names],
            colorscale=[[0, pale(LOWERS)], [0.5, FIELD], [1, pale(RAISES)]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="%{hovertext}: %{customdata[0]:+.1f} points<br>"
            f"accuracy: {in_percent(level)} interval %{{customdata[1]:.1f}} % to %{{customdata[2]:.1f}} %<br>"
            "mean margin %{customdata[3]:+.3f}, KL divergence %{customdata[4]:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(side="top", type="category", tickangle=0, showgrid=False, tickfont={"size": 12})
    is_chosen = [name in repair.doses and repair.doses[name] == repair.dose for name in names]
    shown = [f"{name} (chosen)" if chosen else name for name, chosen in zip(names, is_chosen, strict=True)]
    figure.update_yaxes(**edit_ticks(shown), showgrid=False, zeroline=False)
    return finish(
        figure,
        "What happens to each group of the held-out pictures",
        f"{text(repair.report.settings['model'])}; held-out pictures; accuracy, and its change in percentage points "
        f"[{in_percent(level)} interval]<br>red: more often right, blue: less often; bold: the interval leaves out 0",
        height=190 + 46 * len(names),
        margin={"l": 60, "r": 20, "t": 150, "b": 20},
    )


def _cell(cell: pd.Series) -> str:
    share = in_percent(cell["accuracy"], 1)
    if cell["edit"] == UNEDITED:
        return share
    moved = f"{100 * cell['change']:+.1f} [{100 * cell['change_low']:+.1f}, {100 * cell['change_high']:+.1f}]"
    said = f"{share}<br><span style='font-size:9px'>{true_minus(moved)}</span>"
    return f"<b>{said}</b>" if cell["change_low"] > 0 or cell["change_high"] < 0 else said


def _random(repair: Repair, place: int, x: float) -> go.Scatter:
    """The random edits of one group, right of the chosen dose."""
    group, colour = repair.report.groups[place], GROUP_COLOURS[place % len(GROUP_COLOURS)]
    rows = [repair.report.axes["edit"].index(name) for name in repair.random]
    shares = 100 * repair.report.accuracies()[rows, place].numpy()
    return go.Scatter(
        x=[x] * len(shares),
        y=shares,
        name="random edits",
        legendgroup="random",
        legendrank=2000,
        showlegend=place == 0,
        mode="markers",
        marker={"color": NEUTRAL, "size": 6, "symbol": f"{SYMBOLS[colour % len(SYMBOLS)]}-open"},
        hovertemplate=f"random edit, {text(group)}: %{{y:.1f}} %<extra></extra>",
    )


def _beside(name: str, row: pd.Series, group: str, colour: int, x: float, legend: bool = False) -> go.Scatter:
    """One group of the report with something else than the chosen edit."""
    share, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
    return go.Scatter(
        x=[x],
        y=[share],
        name=group,
        mode="markers",
        legendgroup=group,
        showlegend=legend,
        marker={"color": COLOURS[colour], "size": 9, "symbol": SYMBOLS[colour % len(SYMBOLS)]},
        error_y={
            "type": "data", "symmetric": False, "array": [high - share], "arrayminus": [share - low], "thickness": 1.2,
        },
        hovertemplate=f"{group}, {name}: %{{y:.1f}} %<br>"
        f"95 % interval {low:.1f} % to {high:.1f} %<extra></extra>",
    )  # fmt: skip


def _candidates(name: str, some: pd.DataFrame, marker: dict[str, Any]) -> go.Scatter:
    """Candidates as points; those with the same two numbers are one, which names them."""
    by_place = [(at, list(rows["edit"])) for at, rows in some.groupby(["loss", "worst"], sort=False)]
    names = [
        "<br>".join([*(text(one, 80) for one in edits[:NAMES_OF_A_POINT]), *_more(len(edits) - NAMES_OF_A_POINT)])
        for _, edits in by_place
    ]
    return go.Scatter(
        x=[at[0] for at, _ in by_place],
        y=[at[1] for at, _ in by_place],
        name=name,
        mode="markers",
        marker=marker,
        text=names,
        hovertemplate="%{text}<br>worst group %{y:.1f} %, largest loss %{x:.1f} points<extra></extra>",
    )


def _more(n: int) -> list[str]:
    return [f"and {n} more"] if n > 0 else []
