"""Figures of attention over the picture: one head large, and every head of the model at once."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.plots.picture import Pixels, add_picture, patch_heatmap, picture_uri
from vitlens.plots.style import SEQUENTIAL, array, colorbar, finish, text


def attention_overlay(
    attention: Float[Tensor, "tokens"],
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
    head: str,
    query: str,
    model_name: str,
) -> go.Figure:
    """What one head reads for one query token, beside the picture; the prefix tokens' share stands in the subtitle."""
    n_prefix = len(prefix)
    figure = make_subplots(1, 2, horizontal_spacing=0.02)
    for col in (1, 2):
        figure.add_trace(
            patch_heatmap(
                attention[n_prefix:].unflatten(0, tuple(grid)),
                "attention %{z:.4f}",
                opacity=0.0 if col == 1 else 0.7,
                colorscale=SEQUENTIAL,
                zmin=0.0,
                showscale=col == 2,
                colorbar=colorbar("attention"),
            ),
            row=1,
            col=col,
        )
        add_picture(figure, picture_uri(pixels, grey=col == 2), grid, col=col)
    shares = ", ".join(f"{label} {share:.1%}" for label, share in zip(prefix, attention.tolist(), strict=False))
    return finish(
        figure,
        f"What head {head} reads for the {query} token",
        f"{text(model_name)}; own colour scale" + (f"; to prefix tokens: {shares}" if shares else ""),
        height=470,
    )


def attention_mosaic(attention: Float[Tensor, "block head rows columns"], query: str, model_name: str) -> go.Figure:
    """Every head's attention from one query token to the patches, as one array: blocks across, heads down.

    Each tile is divided by its own largest value, else the few heads that look at single patches hide the rest.
    """
    n_blocks, n_heads, rows, columns = attention.shape
    scaled = attention / attention.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    mosaic = np.full((n_heads * (rows + 1) - 1, n_blocks * (columns + 1) - 1), np.nan, dtype=np.float32)
    exact = mosaic.copy()
    for head in range(n_heads):
        for block in range(n_blocks):
            top, left = head * (rows + 1), block * (columns + 1)
            tile = np.s_[top : top + rows, left : left + columns]
            mosaic[tile], exact[tile] = array(scaled[block, head]), array(attention[block, head])
    figure = go.Figure(
        go.Heatmap(
            z=mosaic,
            customdata=exact,
            colorscale=SEQUENTIAL,
            zmin=0.0,
            zmax=1.0,
            hoverongaps=False,
            colorbar=colorbar("share of<br>maximum"),
            hovertemplate="attention %{customdata:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=[block * (columns + 1) + columns / 2 - 0.5 for block in range(n_blocks)],
        ticktext=[f"L{block}" for block in range(n_blocks)],
        showgrid=False, zeroline=False, side="top", constrain="domain",
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=[head * (rows + 1) + rows / 2 - 0.5 for head in range(n_heads)],
        ticktext=[f"H{head}" for head in range(n_heads)],
        autorange="reversed", showgrid=False, zeroline=False, scaleanchor="x", constrain="domain",
    )  # fmt: skip
    height = 130 + int(980 * n_heads * rows / (n_blocks * columns))
    return finish(
        figure,
        f"What every head reads for the {query} token",
        f"{text(model_name)}; patches only, every head on its own scale (hover gives the attention)",
        height=min(1200, max(300, height)),
        margin={"l": 50, "r": 20, "t": 100, "b": 20},
    )
