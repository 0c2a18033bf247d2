"""Which classes an analysis is about, said in any of the ways a user would say it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

Classes = None | int | str | np.integer | Sequence[int | str] | Tensor | np.ndarray


@dataclass(frozen=True)
class ClassSelection:
    """`indices` [image, class]: what each position of the class axis means for each picture; `labels` name positions."""

    indices: Int[Tensor, "image class"]
    labels: list[str]

    def take(self, logits: Float[Tensor, "image *rest classes"]) -> Float[Tensor, "image *rest class"]:
        """The chosen classes' logits out of all classes' (last axis)."""
        middle = logits.ndim - 2
        index = self.indices.reshape(len(self.indices), *[1] * middle, -1)
        return logits.gather(-1, index.expand(*logits.shape[:-1], index.shape[-1]))


def select_classes(model: HookedViT, classes: Classes, logits: Float[Tensor, "image classes"]) -> ClassSelection:
    """Resolves a choice of classes for a batch of pictures.

    Args:
        classes: None: each picture's predicted class; an index or a name, or a list of them: the same for all pictures;
            "all": every class; a tensor or array [image] or [image, n]: indices for each picture, such as its labels.
        logits: of the batch, for None.

    Raises:
        InputError: no such class, or a tensor that has not one row per picture.
    """
    model.require_classifier()
    n_images, n_classes = logits.shape
    if classes is None:
        return ClassSelection(logits.argmax(dim=-1, keepdim=True), ["predicted"])
    if isinstance(classes, (Tensor, np.ndarray)):
        classes = torch.as_tensor(classes, device=logits.device)
        indices = classes if classes.ndim == 2 else classes.reshape(-1, 1)
        if len(indices) != n_images or indices.is_floating_point():
            raise InputError(
                f"a tensor of classes holds one row of indices per picture: got {list(classes.shape)} "
                f"of {classes.dtype} for {n_images} pictures (a list means the same classes for all)"
            )
        for bad in indices[(indices < 0) | (indices >= n_classes)][:1]:
            model.class_index(int(bad))
        labels = ["label"] if indices.shape[1] == 1 else [f"label {i}" for i in range(indices.shape[1])]
        return ClassSelection(indices.to(logits.device).long(), labels)
    if isinstance(classes, str) and classes == "all":
        chosen = list(range(n_classes))
    else:
        wanted = [classes] if isinstance(classes, (int, str, np.integer)) else list(classes)
        if not wanted:
            raise InputError("the list of classes is empty: name at least one, or pass None for the predicted class")
        chosen = [model.class_index(item) for item in wanted]
    indices = torch.tensor(chosen, device=logits.device).expand(n_images, -1)
    return ClassSelection(indices, [model.class_label(index) for index in chosen])
