"""The progress bar of long work; in a script, which shows no bar, one line says how long the work takes."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from vitlens.arguments import bar_hidden

#: Work that takes more seconds than this gets that line.
LONG = 60.0


class ProgressBar:
    """A bar that counts `unit`s up to `total`, with how many there are and, from the first batch on, how long it takes.

    By default (`progress=None`) it is shown on a terminal only. Elsewhere one line on stderr says the cost of work that
    takes more than a minute, measured on its first batch, or on its first `n_told` units; `progress=False` is silent.
    """

    def __init__(
        self, total: int | None, what: str, unit: str, progress: bool | None, n_batches: int | None, *, n_told: int = 1
    ) -> None:
        self.n_told, self._n = n_told, 0
        self.total, self.what, self.unit = total, what, unit
        self._bar = tqdm(total=total, desc=what, unit=unit, disable=bar_hidden(progress, n_batches))
        self._tells = progress is None and self._bar.disable
        self._begun = time.monotonic()

    def update(self, n: int) -> None:
        """Counts n more."""
        self._bar.update(n)
        self._n += n
        if self._tells and self._n >= self.n_told:
            self._tells = False
            self._tell(self._n)

    def say(self, words: str) -> None:
        """Shows words behind the bar, such as how well a training goes."""
        self._bar.set_postfix_str(words, refresh=False)

    def _tell(self, n: int) -> None:
        seconds = (time.monotonic() - self._begun) * (self.total or 0) / n
        if seconds > LONG:
            cost = f"{self.total:,} {self.unit}s, about {seconds / 60:.0f} min"
            print(f"{self.what}: {cost}", file=sys.stderr)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
