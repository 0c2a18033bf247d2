"""Computes a heatmap, the importance of each patch for a class, by any of the methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import checked, require_whole
from vitlens.choose.classes import Classes, ClassSelection, select_classes
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.description.artefacts import artefact_sentences, artefact_tokens
from vitlens.errors import InputError, nearest
from vitlens.heatmaps.registry import LITERATURE, METHODS, NOT_INCLUDED, PARTS, Method
from vitlens.heatmaps.shared.explained import default_explained
from vitlens.heatmaps.shared.precision import careful, require_finite_logits, require_finite_maps
from vitlens.heatmaps.shared.rows import MOST_PICTURES, rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import outside_inference
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.patching.whole_runs import logits_of
from vitlens.results.result import Result, as_array


@dataclass(frozen=True, repr=False)
class Heatmap(Result):
    """Importances [image, row, column] on the grid of patches, on the absolute scale of the method's formula.

    Where blocks or heads are kept apart, they are axes before the row: [image, block, head, row, column], and the sum over
    them is the map. `completeness_gap` [image] is by how much the map misses the difference that it divides among the
    patches, for methods that divide one; `warnings` says for each picture whether artefact tokens lead or carry the map,
    and `artefacts` [image, row, column] which patches these are.
    """

    completeness_gap: Float[Tensor, "image"] | None = None
    warnings: list[str | None] | None = None
    artefacts: Bool[Tensor, "image row column"] | None = None

    @property
    def method(self) -> Method:
        return METHODS[self.settings["method"]]

    def maps(self) -> Float[Tensor, "image row column"]:
        """Summed over the blocks and heads that are kept apart."""
        return _summed(self.values, 2)

    def patches(self) -> Float[Tensor, "image patch"]:
        """The same in the order of the tokens."""
        return self.maps().flatten(1)

    def title(self, image: int = 0) -> str:
        """The method, and of a class-specific one the class."""
        return f"{self.method.title}: {self.class_label(image)}" if self.classes is not None else self.method.title

    def top(self, k: int = 10, image: int = 0) -> pd.DataFrame:
        """The k most important patches, of all where there are no more: row, column, importance.

        Raises:
            InputError: k is less than 1, or there is no such picture.
        """
        require_whole(k=k, image=image)
        if k < 1:
            raise InputError(f"the most important patches are 1 or more (k), not {k}")
        if not -len(self.values) <= image < len(self.values):
            raise InputError(f"there is no picture {image}: the maps are of {len(self.values)}")
        values = self.patches()[image].detach().cpu()
        order = values.argsort(descending=True, stable=True)[:k]
        places = [divmod(patch, self.values.shape[-1]) for patch in order.tolist()]
        return pd.DataFrame(places, columns=["row", "column"]).assign(importance=as_array(values[order]))


@leaves_state
@checked
@takes_text("predicted")
def heatmap(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    method: str = "token_mask",
    keep: str | Sequence[str] = (),
    batch_size: int | None = None,
    warn: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> Heatmap:
    """How important each patch was, by one of the methods of `heatmap_methods()`.

    It is computed in single precision at least, whatever the model's own precision is. `torch.inference_mode` and
    autocast are switched off during the call.

    Args:
        classes: one per picture: indices, names, or a tensor [image] of each picture's own; by default
            the predicted class. Methods that are not class-specific ignore it.
        method: a name, or several words as a person would say it ("token mask"). The default explains the probability,
            or the logit of outputs that have none (`HookedViT.set_output`).
        keep: "block", "head" or both: axes of the result, over which the map is else summed. For the methods that are sums
            over blocks and heads: projection_gradient and head_patch.
        batch_size: pictures of one forward; of methods that run a picture many times, rows. By default at most 16 pictures
            and 64 rows, and no more than a quarter of the free memory holds.
        warn: look whether artefact tokens carry the map (one forward more), for `.warnings` and figures.
        progress: show a bar; by default on a terminal, where there is more than one batch.
        options: those of the method's own function, whose docstring has its equations.

    Returns:
        Heatmap with axes image, row, column; block and head before row where they are kept.

    Raises:
        InputError: an unknown method or option, a part that the method cannot keep, more than one class a picture, a
            class-specific method and no classifier; a probability of outputs that have none; no pictures; importances or
            logits that are not finite.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> heat = vitlens.heatmap(model, images[4:5], ["T-shirt"], method="gradient_rollout")
        >>> heat.values.shape
        torch.Size([1, 14, 14])
        >>> print(heat.top(2).round(2))
           row  column  importance
        0   11       9        0.08
        1    7       9        0.0...
        >>> figure = heat.plot()
    """
    chosen = find_method(method)
    check_options(chosen, options)
    kept = _parts_kept(chosen, keep)
    function = partial(_kept_apart, chosen, kept) if kept else chosen.function
    pictures = model.as_images(images)
    with careful(model, pictures) as (able, copies):
        size = rows_at_once(able, copies, batch_size, gradients=True, most=MOST_PICTURES)
        selection = _one_class_each(able, copies, classes, chosen, size) if chosen.class_specific else None
        maps, gaps, artefacts = [], [], []
        starts = range(0, len(copies), size)
        with ProgressBar(len(copies), chosen.title, "picture", progress, len(starts)) as bar:
            for start in starts:
                some = slice(start, start + size)
                about: tuple[Int[Tensor, "image"], ...] = (
                    () if selection is None else (outside_inference(selection.indices)[some, 0],)
                )
                given = {name: _of_chunk(value, some, len(copies)) for name, value in options.items()}
                if batch_size is not None and chosen.takes_batch_size:
                    given["batch_size"] = batch_size
                found = function(able, copies[some], *about, **given).detach()
                _check_importances(able, copies[some], found, chosen, start)
                maps.append(found)
                if chosen.gap is not None:
                    wanted = {name: value for name, value in given.items() if name in chosen.gap_options}
                    gaps.append(chosen.gap(able, copies[some], *about, found, **wanted))
                if warn:
                    artefacts.append(artefact_tokens(able, copies[some]))
                bar.update(len(found))
        rows, columns = model.embed.grid(*pictures.shape[-2:])
        values = torch.cat(maps)
        blocks = {"block": sorted(set(model.block_indices(options.get("blocks"))))} if "block" in kept else {}
        heads = {"head": list(range(values.shape[-2]))} if "head" in kept else {}
        artefact = torch.cat(artefacts) if warn else None
        return Heatmap(
            values.unflatten(-1, (rows, columns)),
            {
                "image": list(range(len(pictures))),
                **blocks,
                **heads,
                "row": list(range(rows)),
                "column": list(range(columns)),
            },
            "importance",
            classes=None if selection is None else selection.indices,
            class_names=model.class_names,
            pixels=small_pictures(model, pictures),
            settings={"model": model.cfg.model_name, "method": chosen.name, **_as_settings(options)}
            | _metric_that_was_chosen(model, chosen, options),
            completeness_gap=torch.cat(gaps) if gaps else None,
            warnings=None if artefact is None else artefact_sentences(_summed(values, 1), artefact, columns),
            artefacts=None if artefact is None else artefact.unflatten(1, (rows, columns)),
        )


def _parts_kept(method: Method, keep: str | Sequence[str]) -> tuple[str, ...]:
    """The parts in the order of the axes.

    Raises:
        InputError: there is no such part, or the method cannot keep it.
    """
    wanted = [keep] if isinstance(keep, str) else list(keep)
    for part in wanted:
        if part not in PARTS:
            raise InputError(f"a heatmap can keep {' and '.join(PARTS)} (keep), not {part!r}")
        if part not in method.keeps:
            able = ", ".join(name for name, other in METHODS.items() if part in other.keeps)
            raise InputError(f"{method.name} is no sum over {part}s, so it cannot keep them: {able} can")
    return tuple(part for part in PARTS if part in wanted)


def _kept_apart(
    method: Method, kept: tuple[str, ...], *about: Any, **options: Any
) -> Float[Tensor, "image *part patch"]:
    """The method's terms, summed over the parts that are not kept."""
    assert method.by_head is not None
    terms = method.by_head(*about, **options)
    left_out = [axis for axis, part in enumerate(PARTS, start=1) if part not in kept]
    return terms.sum(dim=left_out) if left_out else terms


def _summed(values: Float[Tensor, "image *rest"], n_last: int) -> Float[Tensor, "image *last"]:
    """The sum over the blocks and heads, which stand between the image and the last axes."""
    between = list(range(1, values.ndim - n_last))
    return values.sum(dim=between) if between else values


def _of_chunk(value: Any, some: slice, n_pictures: int) -> Any:
    """Of an option that has a class or a picture for each picture, those of the chunk."""
    per_picture = isinstance(value, (Tensor, np.ndarray)) and value.ndim in (1, 2, 4) and len(value) == n_pictures
    value = outside_inference(value) if isinstance(value, Tensor) else value
    return value[some] if per_picture else value


def _check_importances(
    model: HookedViT, pictures: Tensor, found: Float[Tensor, "image *part patch"], method: Method, first: int
) -> None:
    """Raises InputError if a map has NaN or infinite values, and says whether the logits or the method caused them."""
    if found.isfinite().all():
        return
    if model.unembed is not None:
        require_finite_logits(model, model(pictures), first)
    require_finite_maps(
        found,
        f"the map {method.name}",
        "numbers overflowed on the way, as very large weights or pixels make them",
        first,
    )


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none; the sentence has the method that others call so, or the nearest names.
    """
    asked = str(name).strip().lower().replace(" ", "_").replace("-", "_")
    if asked in METHODS:
        return METHODS[asked]
    letters = "".join(letter for letter in asked if letter.isalnum())
    meant = {method.replace("_", ""): method for method in METHODS} | LITERATURE
    if letters in meant:
        raise InputError(f"there is no heatmap method {name!r}; it is called {meant[letters]} here")
    if letters in NOT_INCLUDED:
        raise InputError(f"the heatmap method {name!r} is not included; the nearest is {NOT_INCLUDED[letters]}")
    raise InputError(
        f"there is no heatmap method {name!r}: the nearest are {nearest(asked, METHODS, 3)}; heatmap_methods() lists all"
    )


def check_options(method: Method, options: dict[str, Any]) -> None:
    """Raises InputError where the method has no such option, or it is a whole number and another was given."""
    known = list(method.options)
    for option in options:
        if option not in known:
            raise InputError(
                f"{method.name} has no option {option!r}; it has {', '.join(known) if known else 'none'}"
            )  # fmt: skip
        if option in method.whole_numbers and options[option] is not None:
            require_whole(**{option: options[option]})


def _one_class_each(
    model: HookedViT, pictures: Tensor, classes: Classes, method: Method, batch_size: int
) -> ClassSelection:
    if model.unembed is None:
        free = ", ".join(name for name, other in METHODS.items() if not other.class_specific)
        raise InputError(
            f"{method.name} explains a class, and {model.cfg.model_name} has no classifier: give it one with "
            f"model.set_class_embeddings(weight, names), or use a method that is not class-specific ({free})"
        )
    selection = select_classes(model, classes, len(pictures), lambda: logits_of(model, pictures, batch_size))
    if selection.indices.shape[1] != 1:
        raise InputError(
            f"a heatmap is of one class per picture, not {selection.indices.shape[1]}: call heatmap once for each class, or "
            "pass a tensor with one class for each picture"
        )
    return selection


def _metric_that_was_chosen(model: HookedViT, method: Method, options: dict[str, Any]) -> dict[str, str]:
    """What the method explains, where it depends on what the model's outputs mean."""
    if "metric" not in method.options or options.get("metric", method.options["metric"]) is not None:
        return {}
    return {"metric": default_explained(model)}


def _as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The options as JSON can keep them."""
    plain = (str, int, float, bool, type(None))
    return {
        name: value
        if isinstance(value, plain) or (isinstance(value, Sequence) and all(isinstance(item, plain) for item in value))
        else type(value).__name__
        for name, value in options.items()
    }
