"""What a user has in hand, as what the model reads: pictures, masks, classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.data.class_names import find_class
from vitlens.data.pictures import Picture, Preprocessing, as_list
from vitlens.errors import InputError
from vitlens.model.checks import check_images
from vitlens.model.config import HookedViTConfig
from vitlens.model.embedding import Embedding
from vitlens.model.naflex import NaFlexEmbedding, check_patch_input


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

    def to_masks(self, masks: Picture | Sequence[Picture]) -> Bool[Tensor, "batch height width"]:
        """Object masks through the geometry of the pictures' preprocessing; pixels that are not 0 are inside."""
        chosen = as_list(masks)
        if not chosen:
            raise InputError("there are no masks in the list")
        return torch.stack([self.preprocessing.mask(mask) for mask in chosen]).to(self.device)

    def to_pixels(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width 3"]:
        """Preprocessed pictures back as colours in [0, 1], channels last: what the figures lay their maps over."""
        return self.preprocessing.undo(images)

    def as_images(self, images: Tensor | Picture | Sequence[Picture]) -> Float[Tensor, "batch channels height width"]:
        """A batch of checked pictures from whatever a user has in hand: a tensor is taken as preprocessed."""
        if not isinstance(images, Tensor):
            return self.to_images(images)
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
        return check_images(images, self.cfg, self.dtype, pads=self.embed.pads)

    def class_index(self, wanted: int | str | np.integer) -> int:
        """The index of a class given by index or name.

        Raises:
            InputError: no such class (the nearest names are listed), or several.
        """
        return find_class(wanted, self.class_names, self.cfg.n_classes)

    def class_label(self, index: int) -> str:
        return self.class_names[index] if self.class_names is not None else f"class {index}"
