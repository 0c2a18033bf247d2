"""Converts what users give (pictures, masks, classes, blocks) into what the model reads.

Each function is a method of HookedViT. Files and arrays go through the model's own preprocessing.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import as_whole, short
from vitlens.data.class_names import find_class
from vitlens.data.masks import MaskInput, Masks, preprocessed, read_mask
from vitlens.data.masks import as_masks as read_any
from vitlens.data.patches import PatchGrid
from vitlens.data.pictures import Picture, Pictures, as_list
from vitlens.errors import InputError
from vitlens.model.checks import check_batch, check_dense
from vitlens.model.parts.naflex import NaFlexEmbedding, check_patch_input

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def to_images(model: "HookedViT", images: Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
    """Reads and preprocesses pictures: paths, PIL images, arrays, or a list of them.

    Raises:
        InputError: a file that is missing or no picture, an array of another shape.
    """
    chosen = as_list(images)
    if not chosen:
        raise InputError("there are no pictures in the list")
    batch = torch.stack([model.preprocessing.image(picture) for picture in chosen])
    return batch.to(model.device, model.dtype)


def to_masks(
    model: "HookedViT", masks: Tensor | Picture | Sequence[Any], *, object_id: int | None = None
) -> Bool[Tensor, "batch height width"]:
    """Reads object masks as the model sees their pictures: True where a pixel belongs to the object.

    Files and PIL pictures are at their picture's size, before the crop, and are resized and cropped as the picture. An
    array or tensor that already has the model's size is taken as it is; one of another size is treated as a file.

    `vitlens.data.masks` says what the values of a mask mean; pixels that are void are not the object's here;
    `read_masks` keeps them apart.

    Args:
        object_id: of masks of class ids, the object's; by default all but 0.

    Raises:
        InputError: a mask whose values do not show an object, a file that is missing or no picture.
    """
    return model.read_masks(masks, object_id=object_id).inside


def read_masks(model: "HookedViT", masks: Tensor | Picture | Sequence[Any], *, object_id: int | None = None) -> Masks:
    """As `to_masks`, and also which pixels are void (neither object nor context). The result fits every `masks=`.

    Raises:
        InputError: as `to_masks`.
    """
    if isinstance(masks, (Tensor, np.ndarray)):
        several = masks.ndim == 3 and (isinstance(masks, Tensor) or masks.shape[1:] == tuple(model.cfg.image_size))
        chosen = list(masks) if several else [masks]
    else:
        chosen = as_list(masks, "masks")
    if not chosen:
        raise InputError("there are no masks in the list")
    read = [_one_mask(model, mask, object_id) for mask in chosen]
    inside, void = (torch.stack(parts).to(model.device) for parts in zip(*read, strict=True))
    return Masks(inside, void)


def _one_mask(model: "HookedViT", mask: Any, object_id: int | None) -> tuple[Tensor, Tensor]:
    labels = read_mask(mask, object_id)
    if isinstance(mask, (Tensor, np.ndarray)) and labels.inside.shape == tuple(model.cfg.image_size):
        return torch.from_numpy(np.array(labels.inside)), torch.from_numpy(np.array(labels.void))
    return preprocessed(labels, model.preprocessing)


def as_masks(model: "HookedViT", masks: MaskInput) -> Masks:
    """Reads masks of any kind: paths and PIL pictures go through the geometry of the pictures'
    preprocessing, tensors and arrays [image, height, width] or [height, width] are taken as they are.

    Raises:
        InputError: as `to_masks`; masks of several sizes.
    """
    return read_any(masks, model.read_masks).to(model.device)


def patch_grid(model: "HookedViT", height: int | None = None, width: int | None = None) -> PatchGrid:
    """How pictures of this size, by default the model's own, are cut into patches."""
    rows, columns = model.embed.grid(height or model.cfg.image_size[0], width or model.cfg.image_size[1])
    return PatchGrid((int(rows), int(columns)), model.cfg.patch_size)


def to_pixels(model: "HookedViT", images: Pictures) -> Float[Tensor, "batch covered_height covered_width 3"]:
    """The colours of pictures in [0, 1], channels last, as the model sees them: figures show maps over these.

    Args:
        images: preprocessed pictures [batch, channels, height, width], or one without the batch axis; or paths, PIL images
            and arrays, which are preprocessed first.

    The colours are cut to what the patches cover, and padded as the model pads them, so that a map of patches lies over the
    pixels that it is about.

    Raises:
        InputError: as `to_images`; a tensor of another shape.
    """
    if not isinstance(images, Tensor):
        images = model.to_images(images)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[1] != model.cfg.n_channels:
        raise InputError(
            f"to_pixels takes preprocessed pictures [batch, {model.cfg.n_channels}, height, width], or files and arrays, "
            f"not {short(images)}"
        )
    height, width = images.shape[-2:]
    if model.cfg.dynamic_img_size or (height, width) == model.cfg.image_size:
        images = model.patch_grid(height, width).fit(images)
    return model.preprocessing.undo(images)


def as_images(
    model: "HookedViT", images: Tensor | Picture | Sequence[Picture]
) -> Float[Tensor, "batch channels height width"]:
    """Reads pictures of any kind into a checked batch; a tensor is taken as preprocessed.

    Raises:
        InputError: as `to_images` and `check_images`; a batch without pictures.
    """
    if not isinstance(images, Tensor):
        return model.to_images(images)
    check_dense(images, model.device)
    if images.ndim == 3:
        images = images[None]
    return model.check_images(images.to(model.device))


def as_pair(
    model: "HookedViT",
    clean: Tensor | Picture | Sequence[Picture],
    corrupted: Tensor | Picture | Sequence[Picture],
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
    """Reads clean and corrupted pictures, which pair up one by one.

    Raises:
        InputError: their numbers or sizes differ.
    """
    pair = model.as_images(clean), model.as_images(corrupted)
    if pair[0].shape != pair[1].shape:
        raise InputError(
            f"clean and corrupted pictures must pair up: {list(pair[0].shape)} against {list(pair[1].shape)}"
        )
    return pair


def as_partners(
    model: "HookedViT",
    others: Tensor | Picture | Sequence[Picture] | None,
    images: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Reads other pictures, one for each of `images`.

    Raises:
        InputError: they are missing, or of another number or size.
    """
    if others is None:
        raise InputError('replacement="other" needs others=, one picture for each picture')
    partners = model.as_images(others)
    if partners.shape != images.shape:
        raise InputError(f"{len(partners)} other pictures were given for {len(images)} pictures")
    return partners


def check_images(model: "HookedViT", images: Any) -> Any:
    """Raises InputError unless `images` is [batch, channels, height, width] as this model reads it, and finite; a
    NaFlexVit also reads the dictionary of patches that timm's collator makes."""
    if isinstance(images, dict) and isinstance(model.embed, NaFlexEmbedding):
        return check_patch_input(images, model.dtype)
    if isinstance(images, Tensor):
        check_dense(images, model.device)
    return check_batch(images, model.cfg, model.dtype, model.embed.pads, model.preprocessing.largest_value)


def class_index(model: "HookedViT", class_index: int | str | np.integer) -> int:
    """The index of a class given by index or name.

    Raises:
        InputError: no such class (the nearest names are listed), or several.
    """
    return find_class(class_index, model.class_names, model.cfg.n_classes)


def class_label(model: "HookedViT", index: int) -> str:
    return model.class_names[index] if model.class_names is not None else f"class {index}"


def block_index(model: "HookedViT", block: int) -> int:
    """The block's number counted from 0; -1 is the last.

    Raises:
        InputError: there is no such block.
    """
    n_layers, wanted = model.cfg.n_layers, as_whole(block, "a block")
    if not -n_layers <= wanted < n_layers:
        raise InputError(f"there is no block {wanted}: the model has blocks 0 to {n_layers - 1}")
    return wanted % n_layers


def block_indices(model: "HookedViT", blocks: int | Sequence[int] | None) -> list[int]:
    """Several blocks' numbers, or a single one, each as `block_index`; None means all.

    Raises:
        InputError: there is no such block, or the list is empty.
    """
    if blocks is None:
        return list(range(model.cfg.n_layers))
    given: Any = blocks
    several = isinstance(given, Iterable) and not isinstance(given, str) and getattr(given, "ndim", None) != 0
    chosen = [model.block_index(block) for block in (given if several else [given])]
    if not chosen:
        raise InputError("the list of blocks is empty: name at least one, or pass None for all")
    return chosen
