"""Selects tokens by what they are in the picture: the class token, a patch, a box, the object, its context."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vitlens.arguments import checked, short
from vitlens.data.masks import MaskInput, Masks
from vitlens.data.patches import PatchGrid, object_and_context
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


TokenSet = str | int | Box | Sequence[int] | Sequence[bool] | Tensor | np.ndarray
NAMED_SETS = ("all", "class", "prefix", "registers", "patches", "object", "context")


@checked
def patch(row: int, column: int) -> Box:
    """The patch at (row, column), counted from the upper left.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> corner = vitlens.choose.patch(0, 0)
        >>> vitlens.choose.select_tokens(model, corner, n_images=1).nonzero()  # The class token is token 0.
        tensor([[0, 1]])
    """
    return Box(row, column)


@checked
def box(row: int, column: int, height: int, width: int) -> Box:
    """A rectangle of patches.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> middle = vitlens.choose.box(4, 4, 6, 6)
        >>> print(middle)
        rows 4–9, columns 4–9
        >>> vitlens.ablate_tokens(model, images[:2], tokens=middle).axes["image"]
        [0, 1]
    """
    return Box(row, column, height, width)


@checked
def select_tokens(
    model: HookedViT,
    tokens: TokenSet,
    n_images: int,
    *,
    masks: MaskInput | None = None,
    grid: tuple[int, int] | None = None,
    some_may_be_empty: bool = False,
) -> Bool[Tensor, "image tokens"]:
    """Which tokens a set means, for every picture.

    Args:
        tokens: "all", "class", "prefix", "registers", "patches"; "object" (patches of which at least half lies inside the
            picture's mask) or "context" (the other patches; those that are mostly void are
            neither); a token index or several, whole numbers, the last ones also from -1 down; a `patch` or
            `box`; bools, as a list [tokens], or as tensor or array [tokens] or [image, tokens]; or a mask of its own, bool
            [rows, columns] of patches or [height, width] of pixels (patches of which at least half lies inside).
        masks: object masks, for "object" and "context": paths, PIL pictures, tensors or arrays at the pictures' size
            [image, height, width], a list of them, or `model.read_masks`: one for each picture. One tensor or array
            [height, width] stands for all pictures. What their values mean is written in `vitlens.data.masks`.
        grid: rows and columns of patches, where they differ from the model's own (dynamic image size).
        some_may_be_empty: allow pictures that have no such token, as long as one picture has.

    Raises:
        InputError: an unknown name, what is no token set, a set that is empty or outside the grid, masks that are missing or
            of another shape.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> vitlens.choose.select_tokens(model, "patches", n_images=2).shape
        torch.Size([2, 197])
        >>> vitlens.choose.select_tokens(model, "object", n_images=2, masks=masks[:2]).sum(dim=1)
        tensor([40, 40])
    """
    grid = model.cfg.grid_size if grid is None else (int(grid[0]), int(grid[1]))
    n_prefix = model.cfg.n_prefix_tokens
    n_tokens = n_prefix + grid[0] * grid[1]
    chosen = torch.zeros(n_images, n_tokens, dtype=torch.bool, device=model.device)
    if isinstance(tokens, str):
        _mark_named(chosen, tokens, model, masks, grid)
    elif isinstance(tokens, Box):
        _mark_box(chosen[:, n_prefix:].unflatten(1, grid), tokens)
    else:
        given = _as_tensor(tokens)
        if given.dtype == torch.bool:
            _mark_bools(chosen, given, model, grid)
        else:
            _mark_indices(chosen, given)
    found = chosen.any(dim=1)
    if not (found.any() if some_may_be_empty else found.all()):
        image = int((~found).nonzero()[0])
        raise InputError(f"the token set {_describe(tokens)} is empty for picture {image}")
    return chosen


def check_masks_are_used(masks: MaskInput | None, sets: Iterable[Any]) -> None:
    """Raises InputError if masks are given, and none of the token sets reads them."""
    if masks is not None and not any(isinstance(tokens, str) and tokens in ("object", "context") for tokens in sets):
        raise InputError(
            'masks= are read by the token sets "object" and "context" alone: name one of them, or leave masks= out'
        )


def queries_in_words(model: HookedViT, queries: TokenSet, grid: tuple[int, int]) -> str:
    """What a figure calls the tokens that it starts from."""
    if isinstance(queries, str):
        return "the class token" if queries == "class" else f"{queries} tokens (mean)"
    if isinstance(queries, Box):
        return f"patch {queries}" if queries.height == queries.width == 1 else f"the patches of {queries} (mean)"
    if isinstance(queries, int):
        label = model.cfg.token_label(queries % (model.cfg.n_prefix_tokens + grid[0] * grid[1]), grid)
        return f"patch {label}" if label.kind == "patch" else f"the {label} token"
    return "the given tokens (mean)"


def _as_tensor(tokens: Any) -> Tensor:
    """Bools, or whole numbers as int64, of any shape.

    A uint8 tensor of zeros and ones may be meant as either: whole numbers are taken from signed types alone.
    """
    if isinstance(tokens, Tensor):
        if tokens.is_meta or tokens.layout != torch.strided:
            raise InputError("a token set is a dense tensor with values, not a sparse, nested or meta one")
        given = tokens
    elif isinstance(tokens, (int, np.integer, np.bool_, float, np.floating)):
        given = torch.as_tensor(tokens)
    elif isinstance(tokens, np.ndarray) and tokens.dtype.kind in "biuf":
        given = torch.from_numpy(
            tokens.astype(np.int64) if tokens.dtype.kind == "u" and tokens.itemsize > 1 else tokens
        )
    elif isinstance(tokens, (Sequence, Set, range)) and not isinstance(tokens, (str, bytes)):
        items = [item.item() if isinstance(item, (Tensor, np.generic)) and item.ndim == 0 else item for item in tokens]
        kinds = {type(item) for item in items}
        if kinds - {int} and kinds != {bool}:
            wrong = next(item for item in items if type(item) is not (bool if kinds == {bool} else int))
            raise InputError(f"a list of tokens holds their numbers, or bools alone, not {wrong!r}")
        given = torch.tensor(items, dtype=torch.bool if kinds == {bool} else torch.int64)
    else:
        raise InputError(f"a token set is a name, an index or several, a patch, a box or bools, not {short(tokens)}")
    if given.is_floating_point() or given.is_complex():
        raise InputError(f"tokens are counted in whole numbers, not in {given.dtype}")
    if given.dtype == torch.uint8:
        raise InputError(
            "a token set of uint8 may mean bools or indices: pass it as bool (tokens.bool()) or as int64 (tokens.long())"
        )
    return given if given.dtype == torch.bool else given.long()


def _mark_indices(chosen: Bool[Tensor, "image tokens"], indices: Int[Tensor, "*token"]) -> None:
    if indices.ndim > 1:
        raise InputError(f"indices of tokens are a list, the same for all pictures, not {list(indices.shape)}")
    n_tokens = chosen.shape[1]
    for index in indices.flatten().tolist():
        if not -n_tokens <= index < n_tokens:
            raise InputError(f"there is no token {index}: a picture has tokens 0 to {n_tokens - 1}")
        chosen[:, index] = True


def _mark_bools(chosen: Bool[Tensor, "image tokens"], given: Tensor, model: HookedViT, grid: tuple[int, int]) -> None:
    n_images, n_tokens = chosen.shape
    shape = tuple(given.shape)
    if shape in ((n_tokens,), (n_images, n_tokens)):
        chosen |= given.to(chosen.device)
    elif len(shape) == 2 and _fits(model, shape, grid):
        inside = given.to(chosen.device)[None]
        chosen[:, model.cfg.n_prefix_tokens :] = _by_patch(model, Masks(inside, torch.zeros_like(inside)), grid)[0]
    else:
        size = PatchGrid(grid, model.cfg.patch_size).size
        raise InputError(
            f"a token set as bool tensor is [{n_tokens}] or [{n_images}, {n_tokens}], or a mask {list(grid)} of "
            f"patches or {list(size)} of pixels, not {list(shape)}"
        )


def _mark_box(on_grid: Bool[Tensor, "image rows columns"], box: Box) -> None:
    for name, value in vars(box).items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise InputError(f"the {name} of a patch or box is a whole number, not {value!r}")
    if min(box.height, box.width) < 1:
        raise InputError(f"a box is at least one patch high and wide, not {box.height} × {box.width}")
    rows, columns = box.row + box.height, box.column + box.width
    if min(box.row, box.column) < 0 or rows > on_grid.shape[1] or columns > on_grid.shape[2]:
        raise InputError(f"{box} lies outside the grid of {on_grid.shape[1]} × {on_grid.shape[2]} patches")
    on_grid[:, box.row : rows, box.column : columns] = True


def _mark_named(
    chosen: Bool[Tensor, "image tokens"],
    name: str,
    model: HookedViT,
    masks: MaskInput | None,
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
        inside, around = _object_patches(model, masks, len(chosen), grid)
        chosen[:, len(prefix) :] = inside if name == "object" else around
    else:
        raise InputError(f"no token set is called {name!r}; the nearest names are {nearest(name, NAMED_SETS)}")


def _object_patches(
    model: HookedViT, masks: MaskInput | None, n_images: int, grid: tuple[int, int]
) -> tuple[Bool[Tensor, "image patches"], Bool[Tensor, "image patches"]]:
    """The patches of the object and of its context, by masks at the pictures' size or on the grid itself."""
    if masks is None:
        raise InputError('the token sets "object" and "context" need masks=, one mask [height, width] per picture')
    read = model.as_masks(masks)
    # One array [height, width] is meant for all pictures; all else has one mask for each picture.
    is_for_all = isinstance(masks, (Tensor, np.ndarray)) and masks.ndim == 2
    if len(read) != n_images and not is_for_all:
        raise InputError(
            f"masks have the shape [{n_images}, height, width], one per picture, not {[len(read), *read.size]}"
        )
    if not _fits(model, read.size, grid):
        size = PatchGrid(grid, model.cfg.patch_size).size
        raise InputError(
            f"masks of {read.size[0]} × {read.size[1]} do not fit pictures of {size[0]} × {size[1]} "
            f"({grid[0]} × {grid[1]} patches): bring them to the model's size with model.to_masks"
        )
    inside, around = _by_patch(model, read, grid)
    return inside.expand(n_images, -1), around.expand(n_images, -1)


def _fits(model: HookedViT, size: tuple[int, int], grid: tuple[int, int]) -> bool:
    """Whether a mask is one of patches, of what patches cover, or of pictures that are cut into this grid."""
    if size in (grid, PatchGrid(grid, model.cfg.patch_size).size):
        return True
    if not model.cfg.dynamic_img_size:
        return size == model.cfg.image_size
    return model.embed.pads and model.patch_grid(*size).grid == grid


def _by_patch(
    model: HookedViT, masks: Masks, grid: tuple[int, int]
) -> tuple[Bool[Tensor, "image patches"], Bool[Tensor, "image patches"]]:
    patch_size = (1, 1) if masks.size == grid else model.cfg.patch_size
    return object_and_context(masks.inside, masks.void, PatchGrid(grid, patch_size))


def _describe(tokens: TokenSet) -> str:
    if isinstance(tokens, (Tensor, np.ndarray)):
        return "given as a tensor"
    return repr(tokens) if isinstance(tokens, str) else short(tokens)
