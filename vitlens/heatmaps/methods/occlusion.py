"""Occlusion: what the class loses while a square of patches is hidden."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.explained import explained
from vitlens.heatmaps.shared.pixels import EMPTY, emptied, pixels_of
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT

REMOVE = "remove"


def occlusion(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    replacement: str = "mean",
    window: int = 1,
    metric: str | None = None,
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """f(x) − f(x without the window): the drop when `window` × `window` patches are replaced in the picture.

    One forward for each window, exact. The window moves patch by patch; a larger one gives every patch the mean over the
    windows that cover it. Memory does not grow with the number of patches.

    Args:
        replacement: what takes the place: "mean", the picture's mean colour; "zero", the grey that is 0 after normalisation;
            "blur", the picture blurred; or "remove": the patches leave the sequence, after their positions were added.
        window: rows and columns of patches that are hidden together.
        metric: f is the class's "probability", "log_probability" or "logit"; by default the probability, of outputs without
            probabilities (regression) the logit.
        batch_size: rows, pictures × windows, of one forward; by default at most 64, and what is free holds.

    Raises:
        InputError: an unknown replacement or metric, a window that does not fit the grid, fewer than one row, no classifier,
            a probability of outputs that have none.

    Source: Zeiler & Fergus 2014, section 4.2 (a grey square, the probability); "remove" as Methods D3 removes.
    """
    rows, columns = grid = model.embed.grid(*images.shape[-2:])
    if replacement not in (*EMPTY, REMOVE):
        raise InputError(
            f"replacement of an occluded patch is one of {', '.join((*EMPTY, REMOVE))}, not {replacement!r}"
        )
    of_class = explained(model, metric)
    if not 1 <= window <= min(grid):
        raise InputError(f"a window is 1 to {min(grid)} patches wide in a grid of {rows} × {columns}, not {window}")
    at_once = rows_at_once(model, images, batch_size, gradients=False)
    with torch.no_grad():
        if replacement == REMOVE:
            run = _removed(model, images, grid)
        else:
            run = _replaced(model, images, emptied(images, replacement))
        windows = _windows(grid, window, images.device)
        cells = torch.cartesian_prod(torch.arange(len(images)), torch.arange(len(windows))).to(images.device)
        values = [
            of_class(run(image, windows[place]), classes[image])
            for image, place in (chunk.T for chunk in cells.split(at_once))
        ]
        whole = of_class(model(images), classes)
    drops = whole[:, None] - rearrange(torch.cat(values), "(b w) -> b w", b=len(images))
    return _mean_over_windows(drops, grid, window)


def _windows(grid: tuple[int, int], window: int, device: torch.device) -> Bool[Tensor, "window row column"]:
    """The patches that each window covers, the windows row by row."""
    n_down, n_across = (side - window + 1 for side in grid)
    row, column = (torch.arange(side, device=device) for side in grid)
    top, left = torch.cartesian_prod(*(torch.arange(n, device=device) for n in (n_down, n_across))).T[..., None]
    inside_rows = (row >= top) & (row < top + window)
    inside_columns = (column >= left) & (column < left + window)
    return inside_rows[:, :, None] & inside_columns[:, None, :]


def _replaced(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    filling: Float[Tensor, "image channels height width"],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Runs pictures, given by number, in which the patches covered show the filling."""

    def run(image: Int[Tensor, "run"], covered: Bool[Tensor, "run row column"]) -> Float[Tensor, "run classes"]:
        pixels = pixels_of(model, covered.flatten(1), *images.shape[-2:])
        return model(torch.where(pixels[:, None], filling[image], images[image]))

    return run


def _removed(
    model: HookedViT, images: Float[Tensor, "image channels height width"], grid: tuple[int, int]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Runs pictures, given by number, without the patches covered."""
    stream = model(images, stop_at_layer=0)

    def run(image: Int[Tensor, "run"], covered: Bool[Tensor, "run row column"]) -> Float[Tensor, "run classes"]:
        return model.forward_kept(stream[image], ~covered.flatten(1), grid).logits

    return run


def _mean_over_windows(
    drops: Float[Tensor, "image window"], grid: tuple[int, int], window: int
) -> Float[Tensor, "image patch"]:
    """To every patch the mean over the windows that cover it."""
    n_down = grid[0] - window + 1
    placed = rearrange(drops, "b (r c) -> b 1 r c", r=n_down)
    square = drops.new_ones(1, 1, window, window)
    covering = F.conv_transpose2d(torch.ones_like(placed), square)
    return rearrange(F.conv_transpose2d(placed, square) / covering, "b 1 r c -> b (r c)")
