"""Figures of attention over the picture: one head large, the heads of a block, the blocks, every head of the model."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.runs.picture_run import check_index
from vitlens.patterns.maps import AttentionMaps
from vitlens.plots.shared.picture import (
    GLAZE,
    Pixels,
    add_picture,
    as_pixels,
    aspect,
    keep_shape,
    map_tiles,
    patch_heatmap,
    picture_uri,
)
from vitlens.plots.shared.style import OUTLINE, SEQUENTIAL, array, colorbar, finish, in_percent, percent_ticks, text

#: Which way attention is followed from a token: to what it attends to, or to what attends to it.
DIRECTIONS = ("to", "by")
MEAN = "mean of heads"
#: What a colour says where every map is divided by its own largest value.
OF_LARGEST = "of its largest"
#: More queries than these would cover the picture with outlines.
MOST_OUTLINED = 9


def attention_figure(attention: AttentionMaps, image: int = 0) -> go.Figure:
    """The attention over one picture: of a single head large, of several a tile for each and their mean.

    Patches that are queries are outlined, up to the nine of a small box.
    """
    check_index(image, len(attention.values), "picture")
    pixels, grid = attention.picture(image), tuple(attention.grid)
    prefix = [str(label) for label in attention.axes["token"][: attention.n_prefix_tokens]]
    rows, heads = attention.values[image], attention.axes["head"]
    query, model_name = attention.settings["queries"], attention.settings["model"]
    outlined = attention.queries[image, len(prefix) :].nonzero()[:, 0].tolist()
    outlined = outlined if len(outlined) <= MOST_OUTLINED else []
    if len(heads) == 1:
        figure = attention_overlay(rows[0], pixels, grid, prefix, heads[0], query, model_name)
        return _outline(figure, outlined, grid)
    figure = _boards(torch.cat([rows, rows.mean(dim=0, keepdim=True)]), [*heads, MEAN], pixels, grid, prefix)
    blocks = {head.block for head in heads}
    where = "in the attention pool" if None in blocks else f"in block {heads[0].block}" if len(blocks) == 1 else ""
    return _told(_outline(figure, outlined, grid), query, where, model_name, "to", bool(outlined))


def attention_overlay(
    attention: Float[Tensor, "tokens"],
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
    head: str,
    query: str,
    model_name: str,
) -> go.Figure:
    """What a query attends to in one head, over the picture; the prefix tokens' shares stand in the subtitle.

    Args:
        attention: a row of the pattern: `cache["pattern", block][0, head, token]`.
        prefix: the prefix tokens' names, `model.cfg.prefix_tokens`.
        head: its name, such as "L9H0".
        query: what the query is called in the title, such as "the class token".
    """
    pixels, n_prefix = as_pixels(pixels), len(prefix)
    figure = make_subplots(1, 2, horizontal_spacing=0.02)
    largest = attention[n_prefix:].max().item()
    for col in (1, 2):
        figure.add_trace(
            patch_heatmap(
                attention[n_prefix:].unflatten(0, tuple(grid)),
                "attention %{z:.4f}",
                opacity=0.0 if col == 1 else 1.0,
                colorscale=GLAZE,
                zmin=0.0,
                zmax=max(largest, 1e-12),
                showscale=col == 2,
                colorbar=colorbar("attention") | percent_ticks(max(largest, 1e-12)),
            ),
            row=1,
            col=col,
        )
        add_picture(figure, picture_uri(pixels, grey=col == 2), grid, col=col)
    keep_shape(figure, pixels, grid)
    shares = ", ".join(
        f"{label} {in_percent(share, 1)}" for label, share in zip(prefix, attention.tolist(), strict=False)
    )
    return finish(
        figure,
        f"What {text(query)} attends to in head {head}",
        f"{text(model_name)}; bright where attention to a patch is large, dimmed where it is small"
        + (f"; to prefix tokens: {shares}" if shares else ""),
        height=int(130 + 340 * aspect(pixels)),
    )


def attention_grid(
    pattern: Float[Tensor, "head query key"],
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
    block: int,
    model_name: str,
    *,
    token: int = 0,
    direction: str = "to",
) -> go.Figure:
    """All heads of a block over the picture, and their mean: what a token attends to, or what attends to it.

    Args:
        pattern: of one picture: `cache["pattern", block][0]`.
        prefix: the prefix tokens' names, `model.cfg.prefix_tokens`.
        token: by its place in the sequence: 0 is the class token where there is one; a patch is outlined.
        direction: "to" for the token's row, what it attends to; "by" for its column, what every token gives it.

    Raises:
        InputError: a token or direction that does not exist.
    """
    rows = _followed(pattern, token, direction)
    rows = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
    names = [*(f"L{block}H{head}" for head in range(len(pattern))), MEAN]
    return _of_token(rows, names, f"in block {block}", pixels, grid, prefix, model_name, token, direction)


def attention_blocks(
    pattern: Float[Tensor, "block head query key"],
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
    model_name: str,
    *,
    token: int = 0,
    direction: str = "to",
    rollout: Float[Tensor, "rows columns"] | None = None,
) -> go.Figure:
    """The heads' mean attention of every block over the picture, and attention rollout if it is given.

    Args:
        pattern: of one picture: `cache.stack_activation("pattern")[:, 0]`.
        prefix: the prefix tokens' names, `model.cfg.prefix_tokens`.
        token: by its place in the sequence: 0 is the class token where there is one; a patch is outlined.
        direction: "to" for what the token attends to, "by" for what every token gives it.
        rollout: `heatmap(model, images, method="attention_rollout").values[0]`.

    Raises:
        InputError: a token or direction that does not exist.
    """
    rows = _followed(pattern.mean(dim=1), token, direction)
    names = [f"block {block}" for block in range(len(rows))]
    if rollout is not None:
        missing = rollout.new_zeros(len(prefix))
        rows = torch.cat([rows, torch.cat([missing, rollout.flatten()])[None].to(rows)])
        names.append("rollout")
    where = "block by block (mean of heads)"
    return _of_token(rows, names, where, pixels, grid, prefix, model_name, token, direction)


def attention_mosaic(attention: Float[Tensor, "block head rows columns"], query: str, model_name: str) -> go.Figure:
    """Every head's attention from one query to the patches, as one array: blocks across, heads down.

    `query` is what it is called in the title, such as "the class token". Each tile is divided by its own
    largest value, else the few heads that look at single patches hide the rest.
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
            colorbar=colorbar(OF_LARGEST) | percent_ticks(),
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
        f"What {text(query)} attends to, in every head",
        f"{text(model_name)}; patches only, every head on its own scale (hover gives the attention)",
        height=min(1200, max(300, height)),
        margin={"l": 50, "r": 20, "t": 100, "b": 20},
    )


def _followed(pattern: Float[Tensor, "map query key"], token: int, direction: str) -> Float[Tensor, "map token"]:
    """The token's row or column of every pattern."""
    if direction not in DIRECTIONS:
        raise InputError(
            f'attention is followed "to" what a token attends to or "by" what attends to it, not {direction!r}'
        )
    if not 0 <= token < pattern.shape[-1]:
        raise InputError(f"there is no token {token}: the pattern has tokens 0 to {pattern.shape[-1] - 1}")
    return pattern[:, token] if direction == "to" else pattern[:, :, token]


def _of_token(
    rows: Float[Tensor, "map token"],
    names: Sequence[str],
    where: str,
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
    model_name: str,
    token: int,
    direction: str,
) -> go.Figure:
    """Boards of one token's attention; a patch is outlined."""
    is_patch = token >= len(prefix)
    place = token - len(prefix)
    name = f"patch {divmod(place, grid[1])}" if is_patch else f"the {prefix[token]} token"
    figure = _outline(_boards(rows, names, pixels, grid, prefix), [place] if is_patch else [], grid)
    return _told(figure, name, where, model_name, direction, is_patch)


def _boards(
    rows: Float[Tensor, "map token"],
    names: Sequence[str],
    pixels: Pixels,
    grid: Sequence[int],
    prefix: Sequence[str],
) -> go.Figure:
    """A tile for each row, divided by its own largest value over the patches, which stands in its title."""
    pixels, maps = as_pixels(pixels), rows[:, len(prefix) :].unflatten(1, tuple(grid)).float()
    largest = maps.amax(dim=(1, 2))
    titles = [f"{name}, up to {top:.2g}" for name, top in zip(names, largest.tolist(), strict=True)]
    figure = map_tiles(
        maps / largest.clamp(min=1e-12)[:, None, None], titles, pixels, "attention %{customdata:.4f}", OF_LARGEST,
        columns=min(5, len(titles)), colorscale=GLAZE, zmin=0.0, zmax=1.0,
    )  # fmt: skip
    for trace, exact in zip(figure.data, maps, strict=True):
        trace.customdata = array(exact)
    return figure.update_coloraxes(colorbar=percent_ticks())


def _outline(figure: go.Figure, patches: Sequence[int], grid: Sequence[int]) -> go.Figure:
    """Marks these patches on every map of a figure."""
    for row, column in (divmod(patch, grid[1]) for patch in patches):
        for trace in figure.data:
            figure.add_shape(
                type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
                line={"color": OUTLINE, "width": 3}, xref=trace.xaxis, yref=trace.yaxis,
            )  # fmt: skip
    return figure


def _told(figure: go.Figure, query: str, where: str, model_name: str, direction: str, is_outlined: bool) -> go.Figure:
    """Title and subtitle of boards of attention."""
    title = f"What {text(query)} attends to" if direction == "to" else f"What attends to {text(query)}"
    return finish(
        figure,
        f"{title}, {where}" if where else title,
        f"{text(model_name)}; patches only, every map on its own scale from 0 to the number above it"
        + ("; queries are outlined" if is_outlined else ""),
        margin={"l": 10, "r": 20, "t": 104, "b": 10},
    )


FIGURES = {AttentionMaps: attention_figure}
