"""What a user has in hand, as what the model reads: pictures, masks, classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.data.class_names import find_class
from vitlens.data.masks import MaskInput, Masks, as_masks, preprocessed, read_labels
from vitlens.data.patches import PatchGrid
from vitlens.data.pictures import Picture, Preprocessing, as_list
from vitlens.errors import InputError
from vitlens.model.checks import check_dense, check_images
from vitlens.model.config import HookedViTConfig
from vitlens.model.parts.embedding import Embedding
from vitlens.model.parts.naflex import NaFlexEmbedding, check_patch_input


class PictureInputs:
    """The inputs of a HookedViT: everything goes through the model's own preprocessing."""

    cfg: HookedViTConfig
    class_names: list[str] | None
    preprocessing: Preprocessing
    embed: Embedding

    @property
    def device(self) -> torch.device:
        return self.embed.patch_embed_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.patch_embed_weight.dtype

    def to_images(self, pictures: Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """Pictures (paths, PIL images, arrays, or a list of them) through the model's own preprocessing.

        Raises:
            InputError: a file that is missing or no picture, an array of another shape.
        """
        chosen = as_list(pictures)
        if not chosen:
            raise InputError("there are no pictures in the list")
        images = torch.stack([self.preprocessing.image(picture) for picture in chosen])
        return images.to(self.device, self.dtype)

    def to_masks(
        self, masks: Picture | Sequence[Picture], object_id: int | None = None
    ) -> Bool[Tensor, "batch height width"]:
        """Object masks through the geometry of the pictures' preprocessing: which pixels are the object's.

        What the values of a mask mean is written in `vitlens.data.masks`; pixels that are void are not the object's here,
        and `read_masks` tells them apart.

        Args:
            object_id: of masks of class ids, the object's; by default all but 0.

        Raises:
            InputError: a mask whose values say nothing of an object, a file that is missing or no picture.
        """
        return self.read_masks(masks, object_id).inside

    def read_masks(self, masks: Picture | Sequence[Picture], object_id: int | None = None) -> Masks:
        """As `to_masks`, with what is void: neither object nor context. Goes wherever `masks=` is taken.

        Raises:
            InputError: as `to_masks`.
        """
        chosen = list(masks) if isinstance(masks, Tensor) and masks.ndim == 3 else as_list(masks, "masks")
        if not chosen:
            raise InputError("there are no masks in the list")
        read = [preprocessed(read_labels(mask, object_id), self.preprocessing) for mask in chosen]
        inside, void = (torch.stack(parts).to(self.device) for parts in zip(*read, strict=True))
        return Masks(inside, void)

    def as_masks(self, masks: MaskInput) -> Masks:
        """Masks from whatever a user has in hand: paths and PIL pictures go through the geometry of the pictures'
        preprocessing, tensors and arrays [image, height, width] or [height, width] are taken as they stand.

        Raises:
            InputError: as `to_masks`; masks of several sizes.
        """
        return as_masks(masks, self.read_masks).to(self.device)

    def patch_grid(self, height: int | None = None, width: int | None = None) -> PatchGrid:
        """How pictures of this size, by default the model's own, are cut into patches."""
        rows, columns = self.embed.grid(height or self.cfg.image_size[0], width or self.cfg.image_size[1])
        return PatchGrid((int(rows), int(columns)), self.cfg.patch_size)

    def to_pixels(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch covered_height covered_width 3"]:
        """Preprocessed pictures back as colours in [0, 1], channels last: what the figures lay their maps over.

        They are cut to what the patches cover, and filled up as the model fills them up, so that a map of patches lies over
        the pixels that it is about.
        """
        height, width = images.shape[-2:]
        if self.cfg.dynamic_img_size or (height, width) == self.cfg.image_size:
            images = self.patch_grid(height, width).fit(images)
        return self.preprocessing.undo(images)

    def as_images(self, images: Tensor | Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """A batch of checked pictures from whatever a user has in hand: a tensor is taken as preprocessed.

        Raises:
            InputError: as `to_images` and `check_images`; a batch without pictures.
        """
        if not isinstance(images, Tensor):
            return self.to_images(images)
        check_dense(images, self.device)
        if images.ndim == 3:
            images = images[None]
        return self.check_images(images.to(self.device))

    def as_pair(
        self,
        clean: Tensor | Picture | Sequence[Picture],
        corrupted: Tensor | Picture | Sequence[Picture],
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """Clean and corrupted pictures, one by one.

        Raises:
            InputError: their numbers or sizes differ.
        """
        pair = self.as_images(clean), self.as_images(corrupted)
        if pair[0].shape != pair[1].shape:
            raise InputError(
                f"clean and corrupted pictures must pair up: {list(pair[0].shape)} against {list(pair[1].shape)}"
            )
        return pair

    def as_partners(
        self, others: Tensor | Picture | Sequence[Picture] | None, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Other pictures, one for each of `images`, to take something from.

        Raises:
            InputError: they are missing, or of another number or size.
        """
        if others is None:
            raise InputError('how="other" needs others=, one picture for each picture')
        partners = self.as_images(others)
        if partners.shape != images.shape:
            raise InputError(f"{len(partners)} other pictures were given for {len(images)} pictures")
        return partners

    def check_images(self, images: Any) -> Any:
        """Raises InputError unless `images` is [batch, channels, height, width] as this model reads it, and finite; a
        NaFlexVit also reads the dictionary of patches that timm's collator makes."""
        if isinstance(images, dict) and isinstance(self.embed, NaFlexEmbedding):
            return check_patch_input(images, self.dtype)
        if isinstance(images, Tensor):
            check_dense(images, self.device)
        return check_images(images, self.cfg, self.dtype, pads=self.embed.pads)

    def class_index(self, wanted: int | str | np.integer) -> int:
        """The index of a class given by index or name.

        Raises:
            InputError: no such class (the nearest names are listed), or several.
        """
        return find_class(wanted, self.class_names, self.cfg.n_classes)

    def class_label(self, index: int) -> str:
        return self.class_names[index] if self.class_names is not None else f"class {index}"
