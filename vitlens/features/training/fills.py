"""The activations of a training: the rows of some pictures at a time, shuffled, in constant memory.

What a fill holds depends on its place alone, not on what was done before: so a stopped training goes on with the same rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.activations import Rows
from vitlens.features.places import HookPlace, chosen_rows, read_places
from vitlens.features.training.learner import autocast
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches
from vitlens.workers import Workers


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
    position: Position

    @property
    def n_batches(self) -> int:
        """Whole batches; rows that are left over are not used, unless they are all."""
        return max(1, len(self.order) // self.batch_rows)

    def batch(self, i: int) -> Rows:
        chosen = self.order[i * self.batch_rows : (i + 1) * self.batch_rows]
        return {name: values[chosen] for name, values in self.rows.items()}


class Fills:
    """Yields fills without end, or until a source of pictures that can be read once is used up.

    Pictures that have numbers (a tensor, files, a picture set) are drawn in a new order in each pass; of all other sources
    the order is their own. Under torchrun the pictures of a fill are shared among the processes.
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
        self._only: Rows | None = None

    def begin(self, position: Position) -> Iterator[Fill]:
        """The fills from a position on."""
        epoch, first = position.epoch, position.fill
        while True:
            n_before = epoch, first
            for number, rows in self._pass(epoch, first):
                yield self._shuffled(rows, Position(epoch, number))
                first = number + 1
            if (epoch, first) == n_before:
                if epoch == 0:
                    raise InputError("there are no pictures to train on")
                if self.pictures.can_be_read_once:
                    return
            epoch, first = epoch + 1, 0

    def _shuffled(self, rows: Rows, position: Position) -> Fill:
        n = len(next(iter(rows.values())))
        generator = self._generator(position.epoch, position.fill, self.workers.rank)
        share = max(1, self.batch_rows // self.workers.world_size)
        return Fill(rows, torch.from_numpy(generator.permutation(n)), share, position)

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])

    def _pass(self, epoch: int, first: int) -> Iterator[tuple[int, Rows]]:
        """The numbered fills of one pass, without those before the first."""
        n = self.pictures.n_numbered
        if n is None:
            yield from self._in_their_order(first)
            return
        size = self._pictures_per_fill()
        order = self._generator(epoch).permutation(n)
        if size >= n and self._only is not None:
            yield from [(0, self._only)] if first == 0 else []
            return
        for number in range(first, -(-n // size)):
            chosen = np.sort(order[number * size : (number + 1) * size])
            rows = self._rows(self.pictures.numbered(chosen[self.workers.rank :: self.workers.world_size].tolist()))
            if rows:
                self._only = rows if size >= n else None
                yield number, rows

    def _in_their_order(self, first: int) -> Iterator[tuple[int, Rows]]:
        size = self._pictures_per_fill()
        gathered: list[ImageBatch] = []
        number = n_gathered = 0
        for batch in self.pictures:
            n_gathered += len(batch.images)
            if number >= first:
                gathered.append(batch)
            if n_gathered >= size:
                if gathered:
                    yield number, self._rows(self._own_share(gathered))
                gathered, n_gathered, number = [], 0, number + 1
        if gathered:
            yield number, self._rows(self._own_share(gathered))

    def _own_share(self, batches: Sequence[ImageBatch]) -> Iterator[ImageBatch]:
        for batch in batches:
            mine = slice(self.workers.rank, None, self.workers.world_size)
            yield ImageBatch(batch.images[mine], batch.ids[mine], None)

    def _pictures_per_fill(self) -> int:
        n_tokens = self.model.cfg.n_ctx if self.places[0].has_tokens else 1
        n_chosen = len(chosen_rows(self.model, self.places[0], self.tokens, n_tokens))
        return max(1, self.buffer_rows // n_chosen) * self.workers.world_size

    def _rows(self, batches: Iterator[ImageBatch]) -> Rows:
        found: dict[str, list[Tensor]] = {place.name: [] for place in self.places}
        for batch in batches:
            grid = self.model.embed.grid(*batch.images.shape[-2:])
            with autocast(self.precision, self.model.device):
                read = read_places(self.model, batch.images, self.places)
            for place in self.places:
                rows = read[place.name]
                chosen = chosen_rows(self.model, place, self.tokens, rows.shape[1], grid).to(rows.device)
                found[place.name].append(rows[:, chosen].flatten(2).flatten(0, 1))
        return {name: torch.cat(parts) for name, parts in found.items() if parts}
