"""Goes through the pictures of an analysis in batches, with one rule for the batch size and one progress bar."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlens.arguments import check_count, is_whole
from vitlens.data.pictures import Pictures, as_list
from vitlens.errors import InputError
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.result import MOST_KEPT

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


class PictureRun:
    """The `n` pictures of an analysis in batches; each pass over it reads the files again, batch by batch.

    Gives (places, images): where the batch lies in the whole, and its pictures as the model reads them. `grid` is the rows
    and columns of patches.
    """

    def __init__(
        self,
        model: "HookedViT",
        images: Pictures,
        batch_size: int | None,
        progress: bool | None,
        what: str,
        n_kept: int = 1,
    ) -> None:
        self.model, self.what = model, what
        self.source = _known(model, images)
        self.n = len(self.source)
        first = model.as_images(self.source[:1])
        rows, columns = model.embed.grid(*first.shape[-2:])
        self.grid = int(rows), int(columns)
        if batch_size is None:
            n_tokens = model.cfg.n_prefix_tokens + self.grid[0] * self.grid[1]
            batch_size = default_batch_size(model, n_tokens, n_kept)
        self.batch_size = check_count(batch_size, "batch_size")
        if progress is not None and not isinstance(progress, bool):
            raise InputError(f"progress is True, False, or None for a bar on terminals only, not {progress!r}")
        self.progress = progress
        self._kept: list[Tensor] = []

    @property
    def images(self) -> list[int]:
        """The labels of the axis of pictures."""
        return list(range(self.n))

    @property
    def pixels(self) -> UInt8[Tensor, "kept height width 3"]:
        """The first pictures, small, as far as they were gone through."""
        return torch.cat(self._kept)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "image channels height width"]]]:
        n_batches = -(-self.n // self.batch_size)
        with ProgressBar(self.n, self.what, "picture", self.progress, n_batches) as bar:
            for batch in PictureBatches(self.model, self.source, self.batch_size):
                first = int(batch.ids[0])
                if first == sum(map(len, self._kept)) < MOST_KEPT:
                    self._kept.append(small_pictures(self.model, batch.images, MOST_KEPT - first))
                yield slice(first, first + len(batch.images)), batch.images
                bar.update(len(batch.images))

    def partners(self, others: Pictures | None, replacement: str) -> Any:
        """Other pictures, one for each, of which `model.as_partners(others[places], images)` reads those of a batch.

        None where `replacement` takes nothing from others.

        Raises:
            InputError: they are missing, of another number, or given where nothing reads them.
        """
        if replacement != "other":
            if others is not None:
                raise InputError(
                    f'others= goes with replacement="other": replacement="{replacement}" would not read them'
                )
            return None
        if others is None:
            raise InputError('replacement="other" needs others=, one picture for each picture')
        known = _known(self.model, others)
        if len(known) != self.n:
            raise InputError(f"{len(known)} other pictures were given for {self.n} pictures")
        return known


class RunningMean:
    """Means over pictures of tensors by name, batch by batch; half precision is summed in float32."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._n: dict[str, int] = {}
        self._dtype: dict[str, torch.dtype] = {}

    def add(self, name: str, values: Float[Tensor, "image *rest"]) -> None:
        total = values.sum(dim=0, keepdim=True, dtype=torch.promote_types(values.dtype, torch.float32))
        self._sums[name] = total + self._sums[name] if name in self._sums else total
        self._n[name] = self._n.get(name, 0) + len(values)
        self._dtype[name] = values.dtype

    def of(self, name: str) -> Float[Tensor, "1 *rest"]:
        return (self._sums[name] / self._n[name]).to(self._dtype[name])


def check_index(value: Any, n: int, what: str) -> None:
    """Raises InputError unless `value` is one of n places, counted from 0, or from -1 down."""
    if not is_whole(value) or not -n <= value < n:
        raise InputError(f"there is no {what} {value!r}: there are 0 to {n - 1}")


def _known(model: "HookedViT", images: Pictures) -> Any:
    """A tensor [image, channels, height, width], or a list of pictures, that can be cut into batches."""
    if isinstance(images, Tensor):
        whole = images[None] if images.ndim == 3 and not images.is_nested else images
        is_dense = images.layout == torch.strided and not images.is_nested and not images.is_meta
        # What is no batch of pictures is refused with the sentence that `as_images` has for it.
        return whole if is_dense and whole.ndim == 4 and len(whole) else model.as_images(images)
    chosen = as_list(images)
    return chosen if chosen else model.as_images(chosen)
