"""Reads pictures batch by batch from tensors, files, picture sets and data loaders."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vitlens.data.decoded_batches import PictureBatch, Skipped, decode_rows
from vitlens.data.picture_sets import PictureSet
from vitlens.data.pictures import Pictures, as_list
from vitlens.errors import InputError
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.progress_bar import ProgressBar

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

# A tensor, files, PIL images or arrays; a picture set; an iterable of pictures or of batches (tensors, or tuples that begin
# with pictures and labels), or a function that returns such an iterable.
PictureSource = Pictures | PictureSet | Iterable[Any] | Callable[[], Iterable[Any]]


@dataclass(frozen=True)
class ImageBatch:
    """Pictures as the model reads them; `ids` are their places in the source, counted from 0."""

    images: Float[Tensor, "image channels height width"]
    ids: Int[Tensor, "image"]
    labels: Int[Tensor, "image"] | None


class PictureBatches:
    """Batches of a source of pictures; each pass reads it again, and only one batch is held in memory.

    Files that cannot be read are left out of a picture set and noted in `skipped`.
    """

    def __init__(self, model: "HookedViT", source: PictureSource, batch_size: int | None) -> None:
        if batch_size is None:
            batch_size = default_batch_size(model)
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch_size is the number of pictures of a forward, at least 1, not {batch_size!r}")
        if isinstance(source, dict):
            raise InputError("pictures of one size are read in batches: pass a tensor, not a dictionary of patches")
        if not (isinstance(source, (Iterable, PictureSet, Image.Image, str, Path)) or callable(source)):
            raise InputError(
                "pictures are a tensor, files, PIL images or arrays, a picture set, or batches of them, not "
                f"{type(source).__name__}"
            )
        if isinstance(source, (str, Path)) and Path(source).is_dir():
            raise InputError(f"{source} is a folder: pass vitlens.open_pictures(folder), which reads its pictures")
        if isinstance(source, Tensor) and (source.is_nested or source.layout != torch.strided or source.is_meta):
            raise InputError("pictures are a dense tensor [batch, channels, height, width] with values")
        if isinstance(source, Sized) and len(source) == 0:
            raise InputError("there are no pictures to go through")
        self.model = model
        self.source = source
        self.batch_size = batch_size
        self.skipped: list[Skipped] = []
        self._is_used_up = False

    def __len__(self) -> int:
        """How many batches there are, where that is known.

        Raises:
            TypeError: it is not (as Python's own iterators do).
        """
        if self.n_pictures is not None:
            return -(-self.n_pictures // self.batch_size)
        if isinstance(self.source, PictureSet):
            raise TypeError("the length of a streamed picture set is not known")
        return len(self.source)  # type: ignore[arg-type]

    @property
    def n_pictures(self) -> int | None:
        """The number of pictures, where it is known before they are read."""
        if isinstance(self.source, PictureSet):
            return self.source.n
        if not _holds_pictures(self.source):
            return None
        return 1 if isinstance(self.source, Tensor) and self.source.ndim == 3 else len(_as_sequence(self.source))

    def __iter__(self) -> Iterator[ImageBatch]:
        if isinstance(self.source, PictureSet):
            yield from self._of_set(self.source)
        elif _holds_pictures(self.source):
            yield from self._of_pictures(_as_sequence(self.source))
        else:
            yield from self._of_batches()

    def with_bar(self, what: str, progress: bool | None) -> Iterator[ImageBatch]:
        """The batches, and a bar that counts pictures; where their number is not known, batches."""
        n_batches, n_pictures = length_of(self), self.n_pictures
        unit, total = ("batch", n_batches) if n_pictures is None else ("picture", n_pictures)
        with ProgressBar(total, what, unit, progress, n_batches) as bar:
            for batch in self:
                yield batch
                bar.update(1 if n_pictures is None else len(batch.images))

    def by_number(self, numbers: Collection[int]) -> Iterator[tuple[int, Float[Tensor, "channels height width"]]]:
        """Some of the pictures, with their numbers, where a number means the same picture each time.

        Of a tensor, files, a list of batches and a picture set that is no stream; nothing else is read of them, save that
        a list of batches is gone through up to the last of these pictures. A data loader may shuffle, and a function, a
        stream or an iterator may give other pictures the second time: these give none.
        """
        wanted = sorted(numbers)
        if isinstance(self.source, PictureSet):
            yield from self._rows_of_set(self.source, wanted)
        elif _holds_pictures(self.source):
            pictures = _as_sequence(self.source)
            for number in wanted:
                yield number, self.model.as_images(pictures[number : number + 1])[0]
        elif isinstance(self.source, (list, tuple)):
            places = iter(wanted)
            place = next(places, None)
            for batch in self._of_batches() if wanted else ():
                for number, image in zip(batch.ids.tolist(), batch.images, strict=True):
                    if number == place:
                        yield number, image
                        place = next(places, None)
                if place is None:
                    return

    @property
    def n_numbered(self) -> int | None:
        """How many pictures can be read by their numbers, each alone; None where the source gives them in its own order."""
        if isinstance(self.source, PictureSet):
            return self.source.n if self.source.rows([]) is not None else None
        return self.n_pictures

    def numbered(self, numbers: Sequence[int]) -> Iterator[ImageBatch]:
        """Batches of the pictures of these numbers, where `n_numbered` is known."""
        for start in range(0, len(numbers), self.batch_size):
            some = list(self.by_number(numbers[start : start + self.batch_size]))
            if some:
                images = torch.stack([image for _, image in some])
                yield ImageBatch(images, torch.tensor([number for number, _ in some]), None)

    @property
    def can_be_read_once(self) -> bool:
        """Whether the source is an iterator, which gives its pictures one time only."""
        return not callable(self.source) and isinstance(self.source, Iterator)

    def _rows_of_set(
        self, pictures: PictureSet, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Float[Tensor, "channels height width"]]]:
        for start in range(0, len(numbers), self.batch_size):
            some = numbers[start : start + self.batch_size]
            rows = pictures.rows(some)
            if rows is None:
                return
            decoded = decode_rows(rows, 0, self.model.preprocessing, self.model.patch_grid(), with_masks=False)
            if isinstance(decoded, PictureBatch):
                images = decoded.images.to(self.model.device, self.model.dtype)
                yield from zip([some[i] for i in decoded.keys], images, strict=True)

    def _of_set(self, pictures: PictureSet) -> Iterator[ImageBatch]:
        self.skipped = []
        cut = self.model.patch_grid()
        for chunk, rows in pictures.chunks(self.batch_size):
            first = chunk * self.batch_size
            decoded = decode_rows(rows, first, self.model.preprocessing, cut, with_masks=False)
            if not isinstance(decoded, PictureBatch):
                self.skipped += decoded
                continue
            self.skipped += decoded.skipped
            images = self.model.check_images(decoded.images.to(self.model.device, self.model.dtype))
            yield ImageBatch(images, torch.tensor(decoded.keys), decoded.labels)

    def _of_pictures(self, pictures: Any) -> Iterator[ImageBatch]:
        for first in range(0, len(pictures), self.batch_size):
            images = self.model.as_images(pictures[first : first + self.batch_size])
            yield ImageBatch(images, torch.arange(first, first + len(images)), None)

    def _of_batches(self) -> Iterator[ImageBatch]:
        source: Any = self.source() if callable(self.source) else self.source
        if iter(source) is source and not callable(self.source):
            if self._is_used_up:
                raise InputError(
                    "this iterator of batches was used up once and cannot start again: pass a list, a DataLoader, or "
                    "a function that makes the iterator"
                )
            self._is_used_up = True
        first = 0
        for item in _gathered(source, self.batch_size):
            images, labels = _pictures_and_labels(item)
            images = self.model.as_images(images)
            for start in range(0, len(images), self.batch_size):
                some = slice(start, start + self.batch_size)
                part = images[some]
                ids = torch.arange(first, first + len(part))
                yield ImageBatch(part, ids, None if labels is None else labels[some])
                first += len(part)


def length_of(batches: PictureBatches) -> int | None:
    """How many batches there are; None where that is not known."""
    try:
        return len(batches)
    except TypeError:
        return None


def _holds_pictures(source: Any) -> bool:
    if isinstance(source, Tensor) or _is_picture(source):
        return True
    return isinstance(source, Sequence) and bool(source) and all(_is_picture(item) for item in source)


def _is_picture(item: Any) -> bool:
    return isinstance(item, (str, Path, Image.Image, np.ndarray))


def _gathered(items: Iterable[Any], size: int) -> Iterator[Any]:
    """Single pictures, one after the other, as batches; batches as they are."""
    waiting: list[Any] = []
    for item in items:
        if _is_picture(item):
            waiting.append(item)
        if waiting and (len(waiting) == size or not _is_picture(item)):
            yield waiting
            waiting = []
        if not _is_picture(item):
            yield item
    if waiting:
        yield waiting


def _as_sequence(source: Any) -> Any:
    if not isinstance(source, Tensor):
        return as_list(source)
    return source[None] if source.ndim == 3 else source


def _pictures_and_labels(item: Any) -> tuple[Any, Int[Tensor, "image"] | None]:
    if isinstance(item, PictureBatch):
        return item.images, item.labels
    if isinstance(item, (tuple, list)) and item and isinstance(item[0], Tensor):
        return item[0], torch.as_tensor(item[1]) if len(item) > 1 else None
    if isinstance(item, dict):
        raise InputError(
            "a batch is a tensor of pictures, or a tuple (pictures, labels), not a dictionary of "
            f"{', '.join(map(str, item))}"
        )
    return item, None
