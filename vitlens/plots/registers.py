"""The figure of test-time registers: norms and attention over the picture without and with them."""

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vitlens.plots.shared.picture import GLAZE, add_picture, patch_heatmap, picture_uri
from vitlens.plots.shared.style import COLOURS, array, colorbar, finish, log_ticks, symmetric, text
from vitlens.registers.results import RegisterNeurons, RegisterShift

RUNS = ("without", "with")


def register_board(result: RegisterShift, image: int = 0, block: int = -1) -> go.Figure:
    """A picture, the norms of its patches after a block and the class token's attention, without and with registers.

    Both norm maps are on one colour scale, and both attention maps. Below the picture: how the largest norm grows over
    the blocks.

    Args:
        image: which picture is shown.
        block: behind which block the norms are shown.
    """
    grid, settings, pixels = tuple(result.settings["grid"]), result.settings, result.picture(image)
    labels = result.axes["block"]
    has_attention = result.attention.shape[-1] > 0
    attention_block = settings["attention_block"]
    titles = ["picture", *[f"norms {run} registers" for run in RUNS], "largest norm by block"]
    titles += [f"attention {run} registers" for run in RUNS] if has_attention else []
    figure = make_subplots(2, 3, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.12)
    norms = result.values[:, image, block].unflatten(-1, grid)
    attention = result.attention[:, image].unflatten(-1, grid) if has_attention else None
    blank = patch_heatmap(torch.zeros(grid), "", opacity=0.0, showscale=False)
    figure.add_trace(blank, row=1, col=1)
    add_picture(figure, picture_uri(pixels), grid, 1, 1)
    for i, run in enumerate(RUNS):
        hover = f"norm {run} registers %{{z:.1f}}"
        figure.add_trace(patch_heatmap(norms[i], hover, coloraxis="coloraxis"), row=1, col=i + 2)
        add_picture(figure, picture_uri(pixels, grey=True), grid, 1, i + 2)
        if attention is not None:
            hover = f"attention {run} registers %{{z:.4f}}"
            figure.add_trace(patch_heatmap(attention[i], hover, coloraxis="coloraxis2"), row=2, col=i + 2)
            add_picture(figure, picture_uri(pixels, grey=True), grid, 2, i + 2)
    curves = {
        "patches without": result.before[image].amax(dim=-1),
        "patches with": result.after[image].amax(dim=-1),
        "register": result.register_norms[image].amax(dim=-1),
    }
    for i, (name, curve) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=labels, y=array(curve), name=name, mode="lines+markers", line={"color": COLOURS[i]}, marker={"size": 5},
                hovertemplate=f"{name}<br>block %{{x}}: norm %{{y:.1f}}<extra></extra>",
            ),
            row=2,
            col=1,
        )  # fmt: skip
    figure.update_xaxes(title="block", row=2, col=1)
    every = torch.cat([curve for curve in curves.values() if curve.numel()])
    ticks = log_ticks(float(every[every > 0].min()) / 2, float(every.max()) * 2)
    figure.update_yaxes(title="norm", type="log", row=2, col=1, **ticks)
    figure.update_layout(
        coloraxis={
            "colorscale": GLAZE,
            "cmin": 0.0,
            "cmax": symmetric(norms),
            "colorbar": {**colorbar("norm"), "len": 0.44, "y": 0.78},
        },
        coloraxis2={
            "colorscale": GLAZE,
            "cmin": 0.0,
            "cmax": 1.0 if attention is None else symmetric(attention),
            "colorbar": {**colorbar("attention"), "len": 0.44, "y": 0.2},
        },
        legend={"orientation": "h", "x": 0.0, "y": -0.1, "yanchor": "top"},
    )
    neurons = settings["neurons"]
    shown = ", ".join(neurons[:4]) + (f" and {len(neurons) - 4} more" if len(neurons) > 4 else "")
    return finish(
        figure,
        f"Outlier patches without and with {settings['n_registers']} test-time register"
        + "s" * (settings["n_registers"] > 1),
        f"{text(settings['model'])}; norms after block {labels[block]}, the class token's attention in block "
        f"{attention_block} (mean over heads)<br>neurons moved: {shown or 'none'}",
        height=820,
        margin={"l": 60, "r": 20, "t": 130, "b": 80},
    )


def register_neurons(result: RegisterNeurons, k: int = 20) -> go.Figure:
    """The neurons that fire where outliers are, and how they fire elsewhere."""
    names = [f"L{block}N{neuron}" for block, neuron in result.pairs(k)]
    figure = go.Figure()
    for i, (name, values) in enumerate({"at outliers": result.at_outliers, "elsewhere": result.elsewhere}.items()):
        figure.add_trace(
            go.Bar(
                x=names, y=array(values[:k]), name=name, marker_color=COLOURS[i],
                hovertemplate=f"%{{x}} {name}: %{{y:.3g}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_yaxes(title="mean |activation|")
    figure.update_xaxes(type="category")
    return finish(
        figure,
        "Neurons that make outlier patches",
        f"{text(result.settings['model'])}; {result.n_outliers} outliers, from block {result.outlier_block} on",
        height=430,
    )


FIGURES = {RegisterShift: register_board, RegisterNeurons: register_neurons}
