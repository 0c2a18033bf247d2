"""Averages over pictures with their intervals, in memory that does not grow with the number of pictures."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vitlens.statistics import bootstrap

#: Pictures have a row of sums each up to this many; later ones are added to rows that are drawn for them.
MOST_ROWS = 4096


class Estimate(NamedTuple):
    """A measure, and its 95 % interval over pictures where it has one."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


class PictureRows:
    """The row of each picture in order: its own, or from the `most`-th picture on one drawn at random.

    A bootstrap over rows is then one over random groups of pictures. The draw does not depend on the size of batches.
    """

    def __init__(self, most: int = MOST_ROWS, seed: int = 0) -> None:
        self.most, self.n_pictures = most, 0
        self._generator = np.random.default_rng(seed)

    @property
    def n_rows(self) -> int:
        """How many rows are in use."""
        return min(self.most, self.n_pictures)

    def next(self, n: int) -> np.ndarray:
        """The rows of the next n pictures."""
        places = np.arange(self.n_pictures, self.n_pictures + n)
        late = int((places >= self.most).sum())
        places[n - late :] = (self._generator.random(late) * self.most).astype(int)
        self.n_pictures += n
        return places


class PictureSums:
    """Sums of named quantities for each row of pictures, in float64."""

    def __init__(self) -> None:
        self.rows = PictureRows()
        self._sums: dict[str, np.ndarray] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values [image] of the next pictures."""
        where = self.rows.next(len(next(iter(values.values()))))
        for name, value in values.items():
            np.add.at(self._sums.setdefault(name, np.zeros(MOST_ROWS)), where, value.detach().double().cpu().numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __getitem__(self, name: str) -> np.ndarray:
        """The sums [row] of a quantity."""
        return self._sums[name][: self.rows.n_rows]


def ratios(parts: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Estimate]:
    """Σ sums / Σ counts over pictures, with intervals; a ratio whose counts sum to 0 is left out."""
    known = {name: pair for name, pair in parts.items() if pair[1].sum() != 0}
    if not known:
        return {}
    sums, counts = (np.stack([pair[i] for pair in known.values()], axis=1) for i in (0, 1))
    found = zip(*(column.tolist() for column in bootstrap(sums, counts)), strict=True)
    return {name: Estimate(*numbers) for name, numbers in zip(known, found, strict=True)}
