"""The activations of a training: the rows of some pictures at a time, shuffled, in constant memory.

What a fill holds depends on its place alone, not on what was done before: so a stopped training goes on with the same rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.activations import Rows
from vitlens.features.places import HookPlace, chosen_rows, read_places
from vitlens.features.training.learner import autocast
from vitlens.features.training.shards import Shards
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches
from vitlens.workers import Workers

#: Of so many pictures the contents are compared when a training goes on.
N_LOOKED_AT = 8


@dataclass(frozen=True)
class Position:
    """A place in the stream of rows: how many passes over the pictures, fills of this pass and batches of this fill."""

    epoch: int = 0
    fill: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Fill:
    """Rows of all places, in one order for all: `batch(i)` is the i-th of `n_batches`."""

    rows: Rows
    order: Int[Tensor, "row"]
    batch_rows: int
    n_batches: int
    position: Position

    def batch(self, i: int) -> Rows:
        chosen = self.order[i * self.batch_rows : (i + 1) * self.batch_rows]
        return {name: values[chosen] for name, values in self.rows.items()}


class Fills:
    """Yields fills without end, or until a source of pictures that can be read once is used up.

    Pictures that have numbers (a tensor, files, a picture set) are drawn in a new order in each pass; of all other sources
    the order is their own. With `shards` the pictures of a fill stay together, and their rows are read from disk where they
    are there; the order of the fills is new in each pass. Under torchrun the pictures of a fill are shared among the
    processes, each of which has as many batches of it as the others.
    """

    def __init__(
        self,
        model: HookedViT,
        pictures: PictureBatches,
        places: Sequence[HookPlace],
        tokens: TokenSet,
        *,
        buffer_rows: int,
        batch_rows: int,
        precision: str,
        seed: int,
        workers: Workers,
    ) -> None:
        self.model, self.pictures, self.places, self.tokens = model, pictures, list(places), tokens
        self.buffer_rows, self.batch_rows, self.precision = buffer_rows, batch_rows, precision
        self.seed, self.workers = seed, workers
        self.shards: Shards | None = None
        #: What the first pictures of this pass are, of a source with an order of its own.
        self.first_pictures = ""
        self._only: Rows | None = None

    def begin(self, position: Position) -> Iterator[Fill]:
        """The fills from a position on.

        Raises:
            InputError: a pass gives no fill.
        """
        epoch, first = position.epoch, position.fill
        while True:
            is_empty = True
            for number, rows in self._pass(epoch, first):
                fill = self._shuffled(rows, Position(epoch, number))
                if fill.n_batches:
                    is_empty = False
                    yield fill
            if is_empty:
                raise InputError(self._why_empty(epoch))
            if self.pictures.can_be_read_once:
                return
            epoch, first = epoch + 1, 0

    def _why_empty(self, epoch: int) -> str:
        if epoch > 0:
            return (
                "the source of pictures gave none when it was asked again: pass a function that makes a new iterator each "
                "time"
            )
        if self.workers.world_size > 1:
            return f"there are too few pictures to train on with {self.workers.world_size} processes"
        return "there are no pictures to train on"

    def _shuffled(self, rows: Rows, position: Position) -> Fill:
        """Whole batches, as many as each process has; rows that are left over are not used, unless they are all."""
        n = len(next(iter(rows.values()))) if rows else 0
        generator = self._generator(position.epoch, position.fill, self.workers.rank)
        share = self.batch_rows // self.workers.world_size
        least = self.workers.smallest(n)
        n_batches = least // share or int(position.fill == 0 and least > 0)
        return Fill(rows, torch.from_numpy(generator.permutation(n)), share, n_batches, position)

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])

    def _pass(self, epoch: int, first: int) -> Iterator[tuple[int, Rows]]:
        """The numbered fills of one pass, without those before the first."""
        n, n_fills = self.pictures.n_numbered, self.n_fills
        if n is None or n_fills is None:
            yield from self._in_their_order(first)
            return
        if n_fills == 1 and self._only is not None:
            yield from [(0, self._only)] if first == 0 else []
            return
        generator = self._generator(epoch)
        # Without shards the pictures of a fill are drawn anew in each pass, with them the fills are.
        pictures = (generator if self.shards is None else np.random.default_rng(0)).permutation(n)
        numbers = np.arange(n_fills) if self.shards is None else generator.permutation(n_fills)
        for place in range(first, n_fills):
            rows = self._numbered(int(numbers[place]), pictures)
            self._only = rows if n_fills == 1 else None
            yield place, rows

    def _numbered(self, number: int, pictures: Int[np.ndarray, "image"]) -> Rows:
        """The rows of a fill: those that are on disk, or new ones."""
        kept = None if self.shards is None else self.shards.read(number)
        if kept is not None:
            return kept
        size = self._pictures_per_fill()
        chosen = np.sort(pictures[number * size : (number + 1) * size])
        mine = chosen[self.workers.rank :: self.workers.world_size].tolist()
        rows = self._joined(self._rows_of(batch) for batch in self.pictures.numbered(mine))
        if self.shards is not None and rows:
            self.shards.write(number, rows)
        return rows

    def _in_their_order(self, first: int) -> Iterator[tuple[int, Rows]]:
        """Each process reads all pictures, and runs the model on its share of each batch."""
        parts: list[Rows] = []
        number = n_rows = 0
        for i, batch in enumerate(self.pictures):
            if i == 0:
                self.first_pictures = _digest([batch.images])
            n_rows += len(batch.images) * self._n_chosen(batch.images)
            if number >= first:
                mine = slice(self.workers.rank, None, self.workers.world_size)
                parts.append(self._rows_of(ImageBatch(batch.images[mine], batch.ids[mine], None)))
            if n_rows >= self.buffer_rows * self.workers.world_size:
                if number >= first:
                    yield number, self._joined(parts)
                parts, n_rows, number = [], 0, number + 1
        if n_rows and number >= first:
            yield number, self._joined(parts)

    @property
    def n_fills(self) -> int | None:
        """How many fills a pass has, where pictures have numbers."""
        n = self.pictures.n_numbered
        return None if n is None else -(-n // self._pictures_per_fill())

    def _pictures_per_fill(self) -> int:
        images = self.pictures.source if isinstance(self.pictures.source, Tensor) else None
        return max(1, self.buffer_rows // self._n_chosen(images)) * self.workers.world_size

    def _n_chosen(self, images: Tensor | None) -> int:
        """Rows of a picture of this size, or of the model's own."""
        place, cfg = self.places[0], self.model.cfg
        grid = cfg.grid_size if images is None else self.model.embed.grid(*images.shape[-2:])
        n_tokens = cfg.n_prefix_tokens + grid[0] * grid[1] - place.first_token if place.has_tokens else 1
        return len(chosen_rows(self.model, place, self.tokens, n_tokens, grid))

    def _rows_of(self, batch: ImageBatch) -> Rows:
        """The rows of a batch of pictures at each place.

        Raises:
            InputError: places without the same tokens; activations that are not finite.
        """
        if not len(batch.images):
            return {}
        grid = self.model.embed.grid(*batch.images.shape[-2:])
        with autocast(self.precision, self.model.device):
            read = read_places(self.model, batch.images, self.places)
        found: Rows = {}
        ids: list[list[int]] = []
        for place in self.places:
            rows = read[place.name]
            chosen = chosen_rows(self.model, place, self.tokens, rows.shape[1], grid)
            ids.append(place.ids(rows.shape[1])[chosen].tolist())
            if ids[-1] != ids[0]:
                raise InputError(
                    f"{self.places[0].name} has {len(ids[0])} rows of a picture and {place.name} {len(ids[-1])}, or of "
                    'other tokens: choose tokens that both have (tokens="patches"), or train them in calls of their own'
                )
            found[place.name] = rows[:, chosen.to(rows.device)].reshape(len(rows) * len(chosen), -1)
            self._check_finite(place, found[place.name], batch, len(chosen))
        return found

    def _check_finite(self, place: HookPlace, rows: Float[Tensor, "row d"], batch: ImageBatch, n: int) -> None:
        bad = (~rows.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(bad):
            raise InputError(
                f"{place.name} is not finite for picture {int(batch.ids[int(bad[0]) // n])} (counted from 0): leave that "
                "picture out, or load the model with another dtype"
            )

    def _joined(self, parts: Iterable[Rows]) -> Rows:
        parts = [part for part in parts if part]
        for place in self.places if parts else []:
            if len({part[place.name].shape[1] for part in parts}) > 1:
                raise InputError(
                    f"rows of {place.name} are as wide as a picture has tokens, and pictures differ in size: pass pictures "
                    "of one size"
                )
        return {place.name: torch.cat([part[place.name] for part in parts]) for place in self.places} if parts else {}


def some_pictures(pictures: PictureBatches) -> str | None:
    """A digest of a few pictures of a source that has numbers, which tells it from another; None of any other source."""
    n = pictures.n_numbered
    if n is None:
        return None
    numbers = np.linspace(0, n - 1, min(n, N_LOOKED_AT)).round().astype(int).tolist()
    return _digest(batch.images for batch in pictures.numbered(numbers))


def _digest(batches: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for images in batches:
        digest.update(images.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
