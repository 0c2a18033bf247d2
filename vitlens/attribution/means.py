"""Averages direct logit attribution over a data set: which parts of the network write for which classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked, is_whole
from vitlens.attribution.direct import direct_logit_attribution
from vitlens.attribution.results import Attribution
from vitlens.choose.classes import Classes, read_labels
from vitlens.choose.texts import takes_text
from vitlens.errors import InputError
from vitlens.model.checks import check_dense
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.results.axes import ComponentLabel
from vitlens.results.result import Result


@dataclass(frozen=True, repr=False)
class AttributionMeans(Result):
    """`values` [class, component]: each component's mean share of a class's logit over that class's pictures.

    `n` counts the pictures of each class and `logits` are their mean logits. Each row of `values`, plus `elsewhere`
    [class, part] if the unit does not split everything, sums to its logit. `spread` is the standard deviation over pictures.
    """

    n: Int[Tensor, "class"]
    logits: Float[Tensor, "class"]
    spread: Float[Tensor, "class component"]
    elsewhere: Float[Tensor, "class part"] | None = None
    elsewhere_names: list[ComponentLabel] | None = None

    @property
    def residual(self) -> Float[Tensor, "class"]:
        """sum of all mean shares − mean logit."""
        rest = 0.0 if self.elsewhere is None else self.elsewhere.sum(dim=-1)
        return self.values.sum(dim=-1) + rest - self.logits

    def columns(self) -> dict[str, Tensor]:
        n = self.n[:, None].expand(-1, self.values.shape[1])
        return {**super().columns(), "spread": self.spread, "n": n}

    def specific(self) -> Float[Tensor, "class component"]:
        """Each component's mean share minus its average over classes."""
        return self.values - self.values.mean(dim=0)

    @checked
    def top_heads(self, class_index: int | str, k: int = 10, specific: bool = True) -> pd.DataFrame:
        """The heads with the largest mean shares for a class, by magnitude; `specific`: minus the average over classes.

        Raises:
            InputError: a class of which there were no pictures; no heads among the components.
        """
        heads = [i for i, name in enumerate(self.axes["component"]) if name.kind == "head"]
        if not heads:
            raise InputError('these means have no heads: compute them with unit="head"')
        return self.top(class_index, k, specific, heads)

    @checked
    def top(
        self, class_index: int | str, k: int = 10, specific: bool = True, among: list[int] | None = None
    ) -> pd.DataFrame:
        """The components (or those `among` them) with the largest mean shares for a class, by magnitude.

        Raises:
            InputError: a class of which there were no pictures.
        """
        row = self._row(class_index)
        chosen = torch.arange(self.values.shape[1]) if among is None else torch.tensor(among)
        by = (self.specific() if specific else self.values)[row, chosen]
        order = chosen[by.abs().argsort(descending=True, stable=True)[:k]]
        return self._table({"component": [self.axes["component"][i] for i in order.tolist()]}, row, order)

    @checked
    def top_classes(self, component: str, k: int = 10, specific: bool = True) -> pd.DataFrame:
        """The classes to which a component, such as the head "L9H3", adds most; negative shares come last.

        Raises:
            InputError: there is no such component.
        """
        names = self.axes["component"]
        if component not in names:
            raise InputError(f"there is no component {component!r}; they are called {', '.join(names[:8])}, …")
        column = names.index(component)
        by = (self.specific() if specific else self.values)[:, column]
        order = by.argsort(descending=True, stable=True)[:k]
        return self._table({"class": [self.axes["class"][i] for i in order.tolist()]}, order, column)

    def _row(self, class_index: int | str) -> int:
        names = self.axes["class"]
        indices = [] if self.classes is None else self.classes[0].tolist()
        if isinstance(class_index, str) and class_index in names:
            return names.index(class_index)
        if is_whole(class_index) and class_index in indices:
            return indices.index(class_index)
        raise InputError(
            f"there were no pictures of the class {class_index!r}; there were of {', '.join(names[:5])}, …"
        )

    def _table(self, names: dict[str, list[str]], rows: Any, columns: Any) -> pd.DataFrame:
        return pd.DataFrame(
            names
            | {
                self.quantity: self.values[rows, columns].numpy(),
                "specific": self.specific()[rows, columns].numpy(),
                "spread": self.spread[rows, columns].numpy(),
                "n": self.n[rows].expand(len(next(iter(names.values())))).numpy(),
            }
        )


@leaves_state
@checked
@takes_text("all")
def attribution_means(
    model: HookedViT,
    images: PictureSource | tuple[Tensor, Tensor],
    classes: Classes = None,
    *,
    unit: str = "head",
    baseline_classes: Classes = None,
    n_images: int | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> AttributionMeans:
    """Averages each component's share of a class's logit over the pictures of that class, or over all pictures.

    mean_c(component) = 1/n_c Σ_{pictures of class c} share(component, logit_c), with the shares of
    `direct_logit_attribution`. Memory grows with the number of classes in the data, not with the number of pictures.

    Args:
        images: a tensor of pictures with `classes`, or a pair of both; a picture set (`open_pictures`); or batches
            (pictures, labels), such as a data loader's.
        classes: a tensor with the class of each picture, if `images` has no labels; or indices, names or "all": the means
            for each of these classes over all pictures.
        unit: as in `direct_logit_attribution`.
        baseline_classes: a single class, whose logit is subtracted.
        n_images: the most pictures to use.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        AttributionMeans with axes class (those of the data or of `classes`, sorted by index), component.

    Raises:
        InputError: pictures without classes, classes that the model does not have, no pictures.

    Source: Gandelsman, Efros & Steinhardt 2024 (Interpreting CLIP's Image Representation via Text-Based Decomposition),
    section 4, for mean shares of heads over a data set; Methods, notation.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> means = vitlens.attribution.attribution_means(model, images[:8], labels[:8], unit="head", progress=False)
        >>> means
        AttributionMeans(mean logit [class 1, component 39], -0.168 to 0.987)
    """
    model.require_classifier()
    of_all = classes is not None and not isinstance(classes, (Tensor, np.ndarray))
    if isinstance(images, tuple) and (classes is None or of_all) and all(isinstance(part, Tensor) for part in images):
        images, labels = images
        classes = classes if of_all else labels
    size = default_batch_size(model) if batch_size is None else batch_size
    source = images if classes is None or of_all else _Pairs(model, images, read_labels(model, classes), size)
    sums = _Sums()
    for batch in PictureBatches(model, source, size).with_bar("attribution means", progress):
        if batch.labels is None and not of_all:
            raise InputError("means by class need classes: pass classes=, or batches of (pictures, classes)")
        left = len(batch.images) if n_images is None else n_images - sums.count
        sums.add(
            direct_logit_attribution(
                model,
                batch.images[:left],
                classes if batch.labels is None or of_all else batch.labels[:left],
                baseline_classes=baseline_classes,
                unit=unit,
                progress=False,
            )
        )
        if sums.count == n_images:
            break
    return sums.result(model)


class _Sums:
    """Sums of shares and of their squares for each class; memory does not grow with the number of pictures."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Attribution | None = None
        self.counts: dict[int, int] = {}
        self.sums: dict[int, Float[Tensor, "number"]] = {}
        self.squares: dict[int, Float[Tensor, "number"]] = {}

    def add(self, found: Attribution) -> None:
        if self.first is not None and _unit_axes(found) != _unit_axes(self.first):
            raise InputError("these pictures have other grids of patches than the first: their shares have no mean")
        self.first = found if self.first is None else self.first
        assert found.classes is not None
        # A row for each picture and class.
        parts = [found.values.flatten(0, 1).flatten(1), found.logits.reshape(-1, 1)]
        if found.elsewhere is not None:
            parts.append(found.elsewhere.flatten(0, 1).flatten(1))
        numbers = torch.cat(parts, dim=1).double().cpu()
        labels = found.classes.flatten().cpu()
        for label in labels.unique().tolist():
            own = numbers[labels == label]
            self.counts[label] = self.counts.get(label, 0) + len(own)
            self.sums[label] = self.sums.get(label, torch.zeros(())) + own.sum(dim=0)
            self.squares[label] = self.squares.get(label, torch.zeros(())) + own.square().sum(dim=0)
        self.count += len(found.classes)

    def result(self, model: HookedViT) -> AttributionMeans:
        if self.first is None:
            raise InputError("there are no pictures to take means of")
        first, seen = self.first, sorted(self.counts)
        n = torch.tensor([self.counts[label] for label in seen])
        means = torch.stack([self.sums[label] for label in seen]) / n[:, None]
        squares = torch.stack([self.squares[label] for label in seen]) / n[:, None]
        spread = (squares - means.square()).clamp(min=0).sqrt()
        names = first.unit_names()
        values, logits, elsewhere = means[:, : len(names)], means[:, len(names)], means[:, len(names) + 1 :]
        return AttributionMeans(
            values,
            {"class": [model.class_label(label) for label in seen], "component": names},
            f"mean {first.quantity}",
            n=n,
            logits=logits,
            spread=spread[:, : len(names)],
            elsewhere=elsewhere if first.elsewhere is not None else None,
            elsewhere_names=first.elsewhere_names,
            classes=torch.tensor([seen]),
            class_names=model.class_names,
            settings=first.settings | {"pictures": self.count},
        )


def _unit_axes(found: Attribution) -> dict[str, list]:
    return {name: labels for name, labels in found.axes.items() if name not in ("image", "class")}


class _Pairs:
    """Pictures and their classes, batch by batch; files are read batch by batch."""

    def __init__(self, model: HookedViT, images: Any, labels: Int[Tensor, "image"], batch_size: int) -> None:
        if isinstance(images, Tensor):
            check_dense(images, model.device)
        if not isinstance(images, (Tensor, Sequence)) or isinstance(images, str) or len(images) != len(labels):
            raise InputError(
                f"classes= goes with a tensor or list of as many pictures: {len(labels)} classes were given"
            )
        self.model, self.images, self.labels, self.batch_size = model, images, labels, batch_size

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), self.batch_size):
            some = slice(start, start + self.batch_size)
            yield self.model.as_images(self.images[some]), self.labels[some]
