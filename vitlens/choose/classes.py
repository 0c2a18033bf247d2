"""Selects the classes of an analysis: what `classes=` may be, for all of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked, is_whole, items, short
from vitlens.errors import InputError
from vitlens.model.class_space.ranks import no_rank
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

    def of(self, images: slice) -> "ClassSelection":
        """The classes of some of the pictures."""
        return ClassSelection(self.indices[images], self.labels)


@checked
def select_classes(
    model: HookedViT,
    classes: Classes,
    n_images: int,
    predict: Callable[[], Float[Tensor, "image classes"]],
) -> ClassSelection:
    """Resolves `classes=` for a batch of pictures. What it may be, everywhere:

    - None: each picture's predicted class: the one with the largest logit. Outputs that are no classes (see
      `HookedViT.set_output`) have none, but for a single output.
    - An index, a name, or a list (or tuple) of them, each once: the same classes for all pictures. "all": every class.
    - A tensor or array [image] or [image, n]: indices for each picture, such as its labels.

    An index is a whole number from 0 up: 1.0, True and NaN are none. Negative indices are refused, since data sets mark
    pictures without a label by -1.

    Args:
        n_images: how many pictures there are.
        predict: gives their logits; called for None only, so that classes that are given need no forward.

    Raises:
        InputError: no such class, or one named twice; a tensor without one row of indices per picture; None, for outputs
            that are no classes, or for logits that are not finite.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> predict = lambda: model(images[:2])
        >>> vitlens.choose.select_classes(model, ["coat", "bag"], 2, predict).labels  # The same for both pictures.
        ['coat', 'bag']
        >>> vitlens.choose.select_classes(model, labels[:2], 2, predict).indices  # The class of each picture.
        tensor([[0],
                [0]])
    """
    model.require_classifier()
    if classes is None:
        model.require_prediction()
        return ClassSelection(_predicted(predict()), ["predicted"])
    return _given(model, classes, n_images)


def _given(model: HookedViT, classes: Classes, n_images: int) -> ClassSelection:
    if isinstance(classes, (Tensor, np.ndarray)) and classes.ndim > 0:
        return _one_row_each(model, classes, n_images)
    if isinstance(classes, str) and classes == "all":
        chosen = list(range(model.cfg.n_classes))
    elif isinstance(classes, (list, tuple, range)):
        chosen = [model.class_index(_as_one(item)) for item in classes]
        _check_list(model, chosen)
    else:
        chosen = [model.class_index(_as_one(classes))]
    indices = torch.tensor(chosen, device=model.device).expand(n_images, -1)
    return ClassSelection(indices, class_labels(model, chosen))


def one_class_each(
    model: HookedViT,
    classes: Classes,
    n_images: int,
    predict: Callable[[], Float[Tensor, "image classes"]],
    what: str = "this analysis",
) -> Int[Tensor, "image"]:
    """`select_classes` for what follows one class per picture.

    Args:
        what: the analysis, as the subject of the error's sentence.

    Raises:
        InputError: as `select_classes`; several classes for a picture.
    """
    selection = select_classes(model, classes, n_images, predict)
    _check_one_each(selection, what)
    return selection.indices[:, 0]


def classes_by_batch(
    model: HookedViT, classes: Classes, n_images: int, one_each: str | None = None
) -> Callable[[slice, Float[Tensor, "image channels height width"]], ClassSelection]:
    """`select_classes` for pictures that are run in batches: a function of a batch's places and pictures.

    Classes that are given are checked here, before any work is done; predicted ones take a forward of each batch.

    Args:
        one_each: what follows one class per picture, where it does: see `one_class_each`.
    """
    model.require_classifier()
    if classes is None:
        model.require_prediction()
        return lambda places, pictures: ClassSelection(_predicted(model(pictures)), ["predicted"])
    whole = _given(model, classes, n_images)
    if one_each is not None:
        _check_one_each(whole, one_each)
    return lambda places, pictures: whole.of(places)


def _check_one_each(selection: ClassSelection, what: str) -> None:
    n = selection.indices.shape[1]
    if n != 1:
        raise InputError(
            f"{what} follows one class per picture, not {n}: call it once for each class, or pass the pictures' own classes "
            "as a tensor [image] (a list means the same classes for all pictures)"
        )


def read_labels(model: HookedViT, labels: Any) -> Int[Tensor, "image"]:
    """The pictures' own classes: one whole number for each, as data sets give them.

    Raises:
        InputError: something else, or a class that the model does not have.
    """
    numbers = items(labels)
    is_row = isinstance(labels, (list, tuple)) or (isinstance(labels, (Tensor, np.ndarray)) and labels.ndim == 1)
    if not is_row or not numbers or not all(is_whole(number) for number in numbers):
        raise InputError(
            f"labels are the class of each picture, whole numbers in a tensor [image], not {short(labels)}"
        )
    for label in numbers:
        if not 0 <= label < model.cfg.n_classes:
            raise InputError(f"there is no class {label}: the model has classes 0 to {model.cfg.n_classes - 1}")
    return torch.tensor([int(number) for number in numbers])


def class_labels(model: HookedViT, indices: Sequence[int]) -> list[str]:
    """Unique names of classes: classes of the same name (ImageNet has two cranes) get their index."""
    names = [model.class_label(index) for index in indices]
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({index})" for name, index in zip(names, indices, strict=True)]


def _predicted(logits: Float[Tensor, "image classes"]) -> Int[Tensor, "image 1"]:
    best = logits.max(dim=-1, keepdim=True)
    unclear = ~best.values[:, 0].isfinite()
    if unclear.any():
        raise no_rank(f"picture {int(unclear.nonzero()[0])} of the batch", logits.dtype)
    return best.indices


def _one_row_each(model: HookedViT, given: Tensor | np.ndarray, n_images: int) -> ClassSelection:
    if isinstance(given, np.ndarray) and given.dtype.kind not in "biuf":
        raise InputError(f"an array of classes holds whole numbers, not {given.dtype}: pass names as a list")
    classes = torch.as_tensor(given)
    indices = classes if classes.ndim == 2 else classes.reshape(-1, 1)
    is_whole = not (classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool)
    if classes.ndim > 2 or len(indices) != n_images or not is_whole:
        raise InputError(
            f"a tensor of classes holds one row of indices per picture: got {list(classes.shape)} "
            f"of {classes.dtype} for {n_images} pictures (a list means the same classes for all)"
        )
    if indices.shape[1] == 0:
        raise InputError("the tensor of classes is empty: it has no class for any picture")
    indices = indices.to(model.device).long()
    for bad in indices[(indices < 0) | (indices >= model.cfg.n_classes)][:1]:
        model.class_index(int(bad))
    labels = ["label"] if indices.shape[1] == 1 else [f"label {i}" for i in range(indices.shape[1])]
    return ClassSelection(indices, labels)


def _check_list(model: HookedViT, chosen: list[int]) -> None:
    if not chosen:
        raise InputError("the list of classes is empty: name at least one, or pass None for the predicted class")
    index, times = Counter(chosen).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"the list of classes names {model.class_label(index)} (class {index}) {times} times: a list means the same "
            "classes for all pictures, each once; pass the pictures' own classes as a tensor [image]"
        )


def _as_one(classes: Any) -> Any:
    """An index or a name, out of a tensor or array without axes too."""
    if isinstance(classes, (Tensor, np.ndarray)):
        classes = classes.item()
    if isinstance(classes, (bool, np.bool_)) or not isinstance(classes, (int, np.integer, str)):
        raise InputError(
            "a class is an index (a whole number) or a name; several are a list of them, or a tensor with the classes of "
            f"each picture, not {short(classes)} of the type {type(classes).__name__}"
        )
    return classes
