"""Figures of names: which heads have one and how much of them it explains, and the texts of neurons."""

import math

import plotly.graph_objects as go
import torch

from vitlens.plots.shared.style import (
    NEUTRAL,
    PALE,
    RAISES,
    array,
    colorbar,
    finish,
    in_percent,
    percent_ticks,
    text,
)
from vitlens.text.names.heads import HeadNames
from vitlens.text.names.neurons import NeuronNames

#: Characters of a name that a cell has room for, and of a text beside a bar.
IN_CELL, BESIDE = 14, 40


def head_names_board(names: HeadNames) -> go.Figure:
    """Blocks × heads: the share of each head that its names explain, and the first of them; 0 where it has none."""
    table, labels = names.table(), names.axes["head"]
    blocks = sorted({label.block for label in labels})
    n_heads = 1 + max(label.head for label in labels)
    shares = torch.full((len(blocks), n_heads), torch.nan)
    first = [[""] * n_heads for _ in blocks]
    told = [[""] * n_heads for _ in blocks]
    k = names.values.shape[1]
    for i, label in enumerate(labels):
        row, named = blocks.index(label.block), names.names[label]
        shares[row, label.head] = float(table["explained"][i])
        if named:
            first[row][label.head] = text(named[0], IN_CELL)
        told[row][label.head] = "<br>".join(
            [
                f"{label}: {', '.join(text(name) for name in named) or 'no name'}",
                f"p of the first {table['p'][i]:.2g}, of turned lists {table['p_turned'][i]:.2g}",
                f"{k} texts explain {_percent(table[f'{k} texts'][i])}, {_percent(table['low'][i])} to "
                f"{_percent(table['high'][i])}",
                f"of shuffled contributions {_percent(table['shuffled'][i])}, random texts {_percent(table['random'][i])}",
                f"variance {_percent(table['variance'][i])} of the embedding’s",
            ]
        )
    figure = go.Figure(
        go.Heatmap(
            z=array(shares), x=list(range(n_heads)), y=[str(block) for block in blocks], text=first, customdata=told,
            texttemplate="%{text}", hovertemplate="%{customdata}<extra></extra>", hoverongaps=True, xgap=1, ygap=1,
            zmin=0, zmax=1, colorscale=list(PALE), colorbar=colorbar("share that<br>names explain"),
        )
    )  # fmt: skip
    figure.update_xaxes(title="head", dtick=1)
    figure.update_yaxes(title="block", autorange="reversed", type="category")
    settings, n_named = names.settings, sum(map(bool, names.names.values()))
    return finish(
        figure,
        "What heads write, in words",
        f"{text(settings['model'])}; {n_named} of {len(labels)} heads have a name; share of the variance over "
        f"{settings['pictures held out']:,} pictures held out",
        height=190 + 34 * max(4, len(blocks)),
        margin={"l": 60, "r": 20, "t": 92, "b": 50},
    )


def neuron_names_bars(names: NeuronNames, k: int = 20) -> go.Figure:
    """The k neurons that vary most: the share that their texts explain, beside that of random texts."""
    table, n_texts = names.table().head(k), names.values.shape[1]
    rows = [
        text(f"{neuron}: {texts or 'no texts'}", BESIDE)
        for neuron, texts in zip(table["neuron"], table["texts"], strict=True)
    ]
    places = list(range(len(table)))
    told = [
        f"{row['neuron']}: {text(row['texts'], 200)}<br>names: {text(row['names'], 200) or 'none'}, p of the first text "
        f"{row['p']:.2g}, of turned lists {row['p_turned']:.2g}<br>its texts explain {_percent(row[f'{n_texts} texts'])}, "
        f"random texts {_percent(row['random'])}<br>one direction has {_percent(row['rank one'])} of its variance; large on "
        f"{row['pictures']:.1f} pictures"
        for row in table.to_dict("records")
    ]
    columns = ((f"{n_texts} texts", "its texts", RAISES), ("random", "random texts", NEUTRAL))
    figure = go.Figure(
        [
            go.Bar(
                x=table[column].to_numpy(), y=places, name=name, orientation="h", marker={"color": colour},
                customdata=told, hovertemplate="%{customdata}<extra></extra>",
            )
            for column, name, colour in columns
        ]
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=rows)
    figure.update_xaxes(title="share of the variance of what the neuron writes", range=[0, 1], **percent_ticks())
    settings = names.settings
    how = "directly" if settings["order"] == 1 else "through later heads"
    return finish(
        figure,
        "What neurons write, in words",
        f"{text(settings['model'])}, block {settings['block']}, {how}; {settings['pictures']:,} pictures; the "
        f"{len(table)} of {len(names.axes['neuron'])} neurons that vary most",
        height=190 + 34 * max(3, len(table)),
        margin={"l": 260, "r": 20, "t": 92, "b": 50},
    )


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else in_percent(share, 1)
