"""Zero-shot accuracy: how often the text that is nearest to a picture is the one of its class."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from vitlens.arguments import checked, is_whole, items, short
from vitlens.errors import InputError
from vitlens.model.class_space.ranks import check_logits
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches, PictureSource
from vitlens.results.result import Result
from vitlens.text.seen import embedding_view, read_texts, tower_of
from vitlens.text.tower import TextTower, read_templates

#: Of the classes of several texts, among how many of the first the right one is looked for, beside the first alone.
K = 5
#: Logits that differ by fewer roundings than this are equal: in two columns of a product the same vector need not give the
#: same last digits.
EQUAL_WITHIN = 64


@dataclass(frozen=True, repr=False)
class ZeroShotAccuracy(Result):
    """`values` [label, prediction]: how many pictures of each class were nearest to each text.

    `among_first` [label] counts the pictures whose own text is among the `k` nearest ones. Equal logits tell nothing apart:
    a picture is right where its own text is nearer than every other one (of k, than all but k − 1).
    """

    among_first: Int[Tensor, "label"]
    k: int
    level: float

    @property
    def n(self) -> Int[Tensor, "label"]:
        """The number of pictures of each class."""
        return self.values.sum(dim=1)

    @property
    def accuracy(self) -> float:
        """The share of pictures that are nearest to their own text."""
        return self.values.trace().item() / self.values.sum().item()

    def table(self) -> pd.DataFrame:
        """Top-1 and top-k accuracy with their intervals over pictures.

        `baseline` is the accuracy of an answer that is the same for all pictures: the commonest classes.
        """
        total = int(self.values.sum())
        rows = []
        for k, hits in {1: int(self.values.trace()), self.k: int(self.among_first.sum())}.items():
            share, low, high = self._interval(hits, total)
            baseline = self.n.topk(k).values.sum().item() / total
            rows.append(
                {"measure": f"top-{k}", "accuracy": share, "low": low, "high": high, "baseline": baseline, "n": total}
            )
        return pd.DataFrame(rows)

    def by_class(self) -> pd.DataFrame:
        """The same for each class that has pictures, and which other text is taken for it most often."""
        rows = []
        for i, name in enumerate(self.axes["label"]):
            n, hits = int(self.n[i]), int(self.values[i, i])
            if not n:
                continue
            share, low, high = self._interval(hits, n)
            others = self.values[i].clone()
            others[i] = 0
            other = int(others.argmax())
            wrong = {"taken_for": self.axes["prediction"][other], "taken_for_share": others[other].item() / n}
            nothing = {"taken_for": "", "taken_for_share": 0.0}
            top = {} if self.k == 1 else {f"top_{self.k}": self.among_first[i].item() / n}
            found = {"class": name, "n": n, "accuracy": share, "low": low, "high": high}
            rows.append(found | top | (wrong if others[other] else nothing))
        return pd.DataFrame(rows)

    def columns(self) -> dict[str, Tensor]:
        return {**super().columns(), "share": self.shares()}

    def shares(self) -> Float[Tensor, "label prediction"]:
        """Of the pictures of each class, the share that is nearest to each text; NaN for a class without pictures."""
        return self.values.double() / self.n[:, None]

    def _interval(self, hits: int, n: int) -> tuple[float, float, float]:
        """A share and the ends of its interval (Wilson's, which is no point where all pictures are right)."""
        ends = binomtest(hits, n).proportion_ci(self.level, method="wilson")
        return hits / n, ends.low, ends.high


@leaves_state
@torch.no_grad()
@checked
def zero_shot_accuracy(
    model: HookedViT,
    images: PictureSource,
    texts: Sequence[str],
    *,
    labels: Any = None,
    tower: TextTower | None = None,
    templates: str | Sequence[str] | None = None,
    level: float = 0.95,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> ZeroShotAccuracy:
    """Classifies pictures by the nearest of several texts, and compares with their classes.

    prediction = argmax_t scale · cos(picture, text_t) + bias. One batch of pictures is in memory at a time, and of what was
    seen only counts are kept.

    Args:
        images: pictures with `labels`; a picture set (`open_pictures`); or batches (pictures, labels), such as a data
            loader's.
        texts: one for each class, in the order of the classes' indices.
        labels: the class of each picture, if `images` has none.
        tower: what embeds the texts, trained with the model; by default the model's own (`model.set_text_tower`).
        templates: in place of the tower's own, such as `vitlens.text.PHOTO_TEMPLATES`.
        level: of the intervals over pictures.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        ZeroShotAccuracy with axes label, prediction. Of more than 5 texts also the top-5 accuracy.

    Raises:
        InputError: no text tower; fewer than two texts, or one twice; pictures without labels, or of other classes than
            texts; no pictures; texts of another width than the model's embedding.

    Source: Radford et al. 2021 (Learning Transferable Visual Models From Natural Language Supervision), section 3.1; Wilson
    1927 for the intervals.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> classes = model.W_U.T.detach()  # A tower that knows the garments by heart: their own directions.
        >>> tower = vitlens.text.TextTower(lambda texts: classes[[model.class_names.index(text) for text in texts]])
        >>> found = vitlens.text.zero_shot_accuracy(
        ...     model, images, model.class_names, tower=tower, labels=labels, progress=False
        ... )
        >>> found.axes["label"][:2], found.table()["measure"].tolist()
        (['T-shirt', 'trouser'], ['top-1', 'top-5'])
    """
    names = read_texts(texts)
    if len(names) < 2:
        raise InputError("a picture is classified among at least two texts: name another")
    chosen = copy(tower_of(model, tower))
    if not isinstance(chosen, TextTower):
        raise InputError(
            f"the model's tower is a {type(chosen).__name__}: make it a TextTower(function), or pass tower="
        )
    if templates is not None:
        chosen.templates = read_templates(templates)
    if not 0 < level < 1:
        raise InputError(f"level is between 0 and 1, such as 0.95, not {level}")
    given = None if labels is None else _whole_numbers(labels)
    vectors = chosen.embed(names)
    view = embedding_view(model, vectors.shape[1])
    rounding, texts_read = EQUAL_WITHIN * torch.finfo(vectors.dtype).eps, vectors.to(view.device).double()
    counts = _Counts(len(names), rounding)
    batches = PictureBatches(view, images, batch_size)
    for batch in batches.with_bar("zero-shot accuracy", progress):
        found = _labels(given, counts.n_pictures, batch, names)
        # In half precision most logits of a picture would be equal.
        cosines = F.normalize(view(batch.images).double(), dim=1) @ texts_read.T
        counts.add(chosen.scale * cosines + (chosen.bias or 0.0), found)
    if given is not None and len(given) != counts.n_pictures:
        raise InputError(f"there are {len(given)} labels for {counts.n_pictures} pictures")
    if not counts.n_pictures:
        raise InputError("there are no pictures to classify")
    return ZeroShotAccuracy(
        counts.confusion,
        {"label": names, "prediction": names},
        "pictures",
        counts.among_first,
        counts.k,
        level,
        settings={
            "model": model.cfg.model_name,
            "tower": chosen.name,
            "templates": list(chosen.templates),
            "pictures": counts.n_pictures,
            "left_out": len(batches.skipped),
        },
    )


class _Counts:
    """How many pictures of each class were nearest to each text, and among the first k."""

    def __init__(self, n_texts: int, rounding: float) -> None:
        # Among all texts, every picture would find its own.
        self.n_texts, self.k, self.n_pictures, self.rounding = n_texts, K if n_texts > K else 1, 0, rounding
        self.confusion = torch.zeros(n_texts, n_texts, dtype=torch.long)
        self.among_first = torch.zeros(n_texts, dtype=torch.long)

    def add(self, logits: Float[Tensor, "image text"], labels: Int[Tensor, "image"]) -> None:
        check_logits(logits.amax(dim=1), "a picture")
        places = labels[:, None].to(logits.device)
        own = logits.gather(1, places)
        equal = self.rounding * logits.abs().amax(dim=1, keepdim=True)
        n_as_near = (logits >= own - equal).sum(dim=1).cpu() - 1
        # The nearest of the others, where the own text is not nearer than all of them.
        other = logits.scatter(1, places, -torch.inf).argmax(dim=1).cpu()
        cells = labels * self.n_texts + other.where(n_as_near > 0, labels)
        self.confusion += cells.bincount(minlength=self.n_texts**2).view_as(self.confusion)
        self.among_first += labels[n_as_near < self.k].bincount(minlength=self.n_texts)
        self.n_pictures += len(labels)


def _whole_numbers(labels: Any) -> Int[Tensor, "image"]:
    numbers = items(labels)
    if not isinstance(labels, (list, tuple, range)) and getattr(labels, "ndim", 0) != 1:
        raise InputError(f"labels are the class of each picture, whole numbers [image], not {short(labels)}")
    if not numbers or not all(is_whole(number) for number in numbers):
        raise InputError(f"labels are the class of each picture, whole numbers [image], not {short(labels)}")
    return torch.tensor([int(number) for number in numbers])


def _labels(
    given: Int[Tensor, "picture"] | None, first: int, batch: ImageBatch, names: Sequence[str]
) -> Int[Tensor, "image"]:
    """The classes of a batch of pictures, which begins with the first-th.

    Raises:
        InputError: there are none, too few, or classes without a text.
    """
    n = len(batch.images)
    found = batch.labels if given is None else given[first : first + n]
    if found is None:
        raise InputError(
            "accuracy needs the class of each picture: pass labels=, a picture set, or batches with labels"
        )
    if len(found) != n:
        raise InputError(f"there are {len(found) if given is None else len(given)} labels, and more pictures")
    wrong = (found < 0) | (found >= len(names))
    if wrong.any():
        raise InputError(
            f"there is a picture of class {int(found[wrong][0])}, and there are texts for classes 0 to {len(names) - 1}"
        )
    return found.cpu().long()
