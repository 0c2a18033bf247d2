"""Token sets said in the picture's terms: the class token, a patch, a box, the object and its context."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from vitlens.data.pictures import patch_share
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT


@dataclass(frozen=True)
class Box:
    """A rectangle of patches: first row and column, and its size, in patches."""

    row: int
    column: int
    height: int = 1
    width: int = 1

    def __str__(self) -> str:
        if self.height == self.width == 1:
            return f"({self.row}, {self.column})"
        return f"rows {self.row}–{self.row + self.height - 1}, columns {self.column}–{self.column + self.width - 1}"


TokenSet = str | int | Box | Sequence[int] | Tensor | np.ndarray
NAMED_SETS = ("all", "class", "prefix", "registers", "patches", "object", "context")


def patch(row: int, column: int) -> Box:
    """The patch at (row, column), counted from the upper left."""
    return Box(row, column)


def box(row: int, column: int, height: int, width: int) -> Box:
    """A rectangle of patches."""
    return Box(row, column, height, width)


def token_mask(
    model: HookedViT,
    tokens: TokenSet,
    n_images: int,
    masks: Tensor | np.ndarray | None = None,
    grid: tuple[int, int] | None = None,
    some_may_be_empty: bool = False,
) -> Bool[Tensor, "image tokens"]:
    """Which tokens a set means, for every picture.

    Args:
        tokens: "all", "class", "prefix", "registers", "patches"; "object" (patches of which at least half lies inside the
            picture's mask) or "context" (the other patches); a token index or several; a `patch` or `box`; a bool
            tensor or array [tokens] or [image, tokens]; or a mask of its own, bool [rows, columns] of patches or
            [height, width] of pixels (patches of which at least half lies inside).
        masks: object masks at the pictures' size, bool [image, height, width], for "object" and "context".
        grid: rows and columns of patches, where they differ from the model's own (dynamic image size).
        some_may_be_empty: allow pictures that have no such token, as long as one picture has.

    Raises:
        InputError: an unknown name, a set that is empty or outside the grid, masks that are missing or of another shape.
    """
    grid = grid or model.cfg.grid_size
    n_prefix = model.cfg.n_prefix_tokens
    n_tokens = n_prefix + grid[0] * grid[1]
    chosen = torch.zeros(n_images, n_tokens, dtype=torch.bool, device=model.device)
    if isinstance(tokens, np.ndarray):
        tokens = torch.from_numpy(tokens)
    if isinstance(tokens, Tensor) and tokens.dtype == torch.bool:
        shape = tuple(tokens.shape)
        size = (grid[0] * model.cfg.patch_size[0], grid[1] * model.cfg.patch_size[1])
        if shape in ((n_tokens,), (n_images, n_tokens)):
            chosen |= tokens.to(chosen.device)
        elif shape in (tuple(grid), size):
            chosen[:, n_prefix:] = _object_patches(tokens, n_images, grid, model.cfg.patch_size).to(chosen.device)
        else:
            raise InputError(
                f"a token set as bool tensor is [{n_tokens}] or [{n_images}, {n_tokens}], or a mask {list(grid)} of "
                f"patches or {list(size)} of pixels, not {list(shape)}"
            )
    elif isinstance(tokens, str):
        _mark_named(chosen, tokens, model, masks, grid)
    elif isinstance(tokens, Box):
        rows, columns = tokens.row + tokens.height, tokens.column + tokens.width
        if min(tokens.row, tokens.column) < 0 or rows > grid[0] or columns > grid[1]:
            raise InputError(f"{tokens} lies outside the grid of {grid[0]} × {grid[1]} patches")
        on_grid = chosen[:, n_prefix:].unflatten(1, grid)
        on_grid[:, tokens.row : rows, tokens.column : columns] = True
    else:
        indices = [tokens] if isinstance(tokens, int) else [int(token) for token in tokens]
        for index in indices:
            if not -n_tokens <= index < n_tokens:
                raise InputError(f"there is no token {index}: a picture has tokens 0 to {n_tokens - 1}")
            chosen[:, index] = True
    found = chosen.any(dim=1)
    if not (found.any() if some_may_be_empty else found.all()):
        image = int((~chosen.any(dim=1)).nonzero()[0])
        raise InputError(f"the token set {_describe(tokens)} is empty for picture {image}")
    return chosen


def _mark_named(
    chosen: Bool[Tensor, "image tokens"],
    name: str,
    model: HookedViT,
    masks: Tensor | np.ndarray | None,
    grid: tuple[int, int],
) -> None:
    prefix = model.cfg.prefix_tokens
    if name == "all":
        chosen[:] = True
    elif name == "class":
        chosen[:, [i for i, label in enumerate(prefix) if label == "class"]] = True
    elif name == "registers":
        chosen[:, [i for i, label in enumerate(prefix) if label.startswith("register")]] = True
    elif name == "prefix":
        chosen[:, : len(prefix)] = True
    elif name == "patches":
        chosen[:, len(prefix) :] = True
    elif name in ("object", "context"):
        inside = _object_patches(masks, len(chosen), grid, model.cfg.patch_size).to(chosen.device)
        chosen[:, len(prefix) :] = inside if name == "object" else ~inside
    else:
        raise InputError(f"no token set is called {name!r}; the nearest names are {nearest(name, NAMED_SETS)}")


def _object_patches(
    masks: Tensor | np.ndarray | None, n_images: int, grid: tuple[int, int], patch_size: tuple[int, int]
) -> Bool[Tensor, "image patches"]:
    """The patches of which at least half lies inside the mask, given at the pictures' size or on the grid itself."""
    if masks is None:
        raise InputError('the token sets "object" and "context" need masks=, one bool mask [height, width] per picture')
    masks = torch.as_tensor(masks)
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or len(masks) not in (1, n_images):
        raise InputError(f"masks have the shape [{n_images}, height, width], one per picture, not {list(masks.shape)}")
    size = (grid[0] * patch_size[0], grid[1] * patch_size[1])
    if tuple(masks.shape[1:]) not in (size, grid):
        raise InputError(
            f"masks of {masks.shape[1]} × {masks.shape[2]} do not fit pictures of {size[0]} × {size[1]} "
            f"({grid[0]} × {grid[1]} patches): bring them to the pictures' size with model.to_masks"
        )
    return (patch_share(masks != 0, grid) >= 0.5).flatten(1).expand(n_images, -1)


def _describe(tokens: TokenSet) -> str:
    if isinstance(tokens, Tensor):
        return "given as a bool tensor"
    return repr(tokens) if isinstance(tokens, str) else str(tokens)
