"""One call for all heatmaps: which patches of the picture the class came from, by the method of your choice."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from vitlens.analysis.classes import Classes, ClassSelection, select_classes
from vitlens.analysis.interventions import logits_of
from vitlens.analysis.results import Result
from vitlens.data.pictures import Pictures
from vitlens.description.artefacts import artefact_warning
from vitlens.errors import InputError
from vitlens.heatmaps.methods import METHODS, Method
from vitlens.model.hooked_vit import HookedViT


@dataclass(frozen=True, repr=False)
class Heatmap(Result):
    """Importances [image, row, column] on the grid of patches, on the absolute scale of the method's formula.

    `completeness_gap` [image] is by how much the map misses the difference that it divides among the patches, for methods
    that divide one; `warnings` says for each picture whether artefact tokens carry the map.
    """

    completeness_gap: Float[Tensor, "image"] | None = None
    warnings: list[str | None] | None = None

    @property
    def method(self) -> Method:
        return METHODS[self.settings["method"]]

    def patches(self) -> Float[Tensor, "image patch"]:
        """The same in the order of the tokens."""
        return self.values.flatten(1)

    def title(self, image: int = 0) -> str:
        """The method, and of a class-specific one the class."""
        return f"{self.method.title}: {self.class_label(image)}" if self.classes is not None else self.method.title

    def top(self, k: int = 10, image: int = 0) -> list[tuple[int, int]]:
        """Row and column of the k most important patches."""
        order = self.values[image].flatten().argsort(descending=True, stable=True)[:k].tolist()
        return [divmod(patch, self.values.shape[2]) for patch in order]


def heatmap(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    method: str = "token_mask",
    batch_size: int = 16,
    warn: bool = True,
    progress: bool = False,
    **options: Any,
) -> Heatmap:
    """How important each patch was, by one of the methods in `vitlens.heatmap_methods()`.

    Args:
        classes: one per picture: see `select_classes`; by default the predicted class. Methods that know no class ignore it.
        method: a name, or several words as a person would say it ("token mask").
        batch_size: pictures that are worked on together.
        warn: look whether artefact tokens carry the map (one forward more), for `.warnings` and figures.
        progress: show a bar.
        options: those of the method's own function, whose docstring has its equations.

    Returns:
        Heatmap with axes image, row, column.

    Raises:
        InputError: an unknown method or option, more than one class a picture, a class-specific method and no classifier.
    """
    chosen = find_method(method)
    check_options(chosen, options)
    pictures = model.as_images(images)
    selection = _one_class_each(model, pictures, classes, chosen, batch_size) if chosen.class_specific else None
    maps, gaps, warnings = [], [], []
    chunks = range(0, len(pictures), batch_size)
    for start in tqdm(chunks, chosen.title, disable=not progress, unit_scale=batch_size, unit=" pictures"):
        part = pictures[start : start + batch_size]
        about: tuple[Int[Tensor, "image"], ...] = ()
        if selection is not None:
            about = (selection.indices[start : start + batch_size, 0],)
        found = chosen.function(model, part, *about, **options).detach()
        maps.append(found)
        if chosen.gap is not None:
            wanted = {name: value for name, value in options.items() if name in chosen.gap_options}
            gaps.append(chosen.gap(model, part, *about, found, **wanted))
        if warn:
            warnings += artefact_warning(model, part, found)
    rows, columns = model.embed.grid(*pictures.shape[-2:])
    return Heatmap(
        torch.cat(maps).unflatten(1, (rows, columns)),
        {"image": list(range(len(pictures))), "row": list(range(rows)), "column": list(range(columns))},
        "importance",
        classes=None if selection is None else selection.indices,
        class_names=model.class_names,
        settings={"model": model.cfg.model_name, "method": chosen.name, **_as_settings(options)},
        completeness_gap=torch.cat(gaps) if gaps else None,
        warnings=warnings if warn else None,
    )


def find_method(name: str) -> Method:
    """Raises InputError with the nearest names where there is no such method."""
    asked = str(name).strip().lower().replace(" ", "_").replace("-", "_")
    if asked in METHODS:
        return METHODS[asked]
    near = get_close_matches(asked, METHODS, n=3, cutoff=0.4)
    raise InputError(
        f"there is no heatmap method {name!r}"
        + (f": did you mean {' or '.join(near)}?" if near else f": the methods are {', '.join(METHODS)}")
    )


def check_options(method: Method, options: dict[str, Any]) -> None:
    """Raises InputError where the method has no such option."""
    known = list(inspect.signature(method.function).parameters)[3 if method.class_specific else 2 :]
    for option in options:
        if option not in known:
            raise InputError(
                f"{method.name} has no option {option!r}; it has {', '.join(known) if known else 'none'}"
            )  # fmt: skip


def _one_class_each(
    model: HookedViT, pictures: Tensor, classes: Classes, method: Method, batch_size: int
) -> ClassSelection:
    if model.unembed is None:
        free = ", ".join(name for name, other in METHODS.items() if not other.class_specific)
        raise InputError(
            f"{method.name} explains a class, and {model.cfg.model_name} has no classifier: give it one with "
            f"model.set_class_embeddings(weight, names), or use a method that knows no class ({free})"
        )
    selection = select_classes(model, classes, len(pictures), lambda: logits_of(model, pictures, batch_size))
    if selection.indices.shape[1] != 1:
        raise InputError(
            f"a heatmap is of one class per picture, not {selection.indices.shape[1]}: call heatmap once for each class, or "
            "pass a tensor with one class for each picture"
        )
    return selection


def _as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options as JSON can keep them."""
    plain = (str, int, float, bool, type(None))
    return {
        name: value
        if isinstance(value, plain) or (isinstance(value, Sequence) and all(isinstance(item, plain) for item in value))
        else type(value).__name__
        for name, value in options.items()
    }
