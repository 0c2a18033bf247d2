"""Numbers and places as the sentences say them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Number = float | int | np.floating
NBSP = "\N{NO-BREAK SPACE}"
#: Heads that write or cost less than this many logits are not spoken of.
WORTH_SAYING = 0.1
#: Patches whose rows and columns frame more than this many times as many patches have no common place.
SCATTERED = 4


class Told(NamedTuple):
    """A text, the panel that shows what it says, and what a click on it chooses; None for what stands between."""

    text: str
    panel: str | None = None
    choose: dict[str, Any] | None = None

    def as_json(self) -> list[Any]:
        return list(self if self.choose else self[:2])


@dataclass(frozen=True)
class Sentence:
    """What is told of one thing, part by part."""

    kind: str
    parts: list[Told]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "parts": [part.as_json() for part in self.parts]}


def percent(probability: Number) -> str:
    """With one decimal, which is left out where it says nothing: 57.2 %, 100 %, < 0.1 %. Its parts stay on one line."""
    if 0 < probability < 0.0005:
        return f"<{NBSP}0.1{NBSP}%"
    if 0.9995 <= probability < 1:
        return f">{NBSP}99.9{NBSP}%"
    return f"{100 * probability:.1f}".removesuffix(".0") + f"{NBSP}%"


def at_least(probability: Number) -> str:
    """At least 57 %, over 99.9 %."""
    return f"at least {percent(probability)}".replace(f"at least >{NBSP}", "over ")


def moved(before: Number, after: Number) -> str:
    """Falls to 26.5 %, rises to 53.2 %, stays at 99.1 %: compared as they are written."""
    if percent(before) == percent(after):
        return f"stays at {percent(after)}"
    return f"{'falls' if after < before else 'rises'} to {percent(after)}"


def points(share: Number) -> str:
    """A share in whole per cent."""
    return f"{100 * share:.0f}{NBSP}%"


def signed(logits: Number) -> str:
    """With its sign: +2.75, −0.31; what rounds to nothing has none."""
    text = f"{abs(logits):.2f}"
    return text if float(text) == 0 else ("+" if logits > 0 else "−") + text


def counted(n: int, noun: str) -> str:
    """1 patch, 2 patches."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{n} {noun if n == 1 else plural}"


def quoted(name: str) -> str:
    return f"“{name}”"


def where_lie(patches: Sequence[int], grid: Sequence[int]) -> str:
    """Where patches lie, the strongest given first: "patch (3, 5)", "4 patches in rows 2 to 3, columns 5 to 6"."""
    rows, columns = zip(*[divmod(int(patch), grid[1]) for patch in patches], strict=True)
    first = f"({rows[0]}, {columns[0]})"
    if len(patches) == 1:
        return f"patch {first}"
    framed = (max(rows) - min(rows) + 1) * (max(columns) - min(columns) + 1)
    if framed > SCATTERED * len(patches):
        return f"{len(patches)} scattered patches, {first} first"
    return f"{len(patches)} patches in {_range('row', rows)}, {_range('column', columns)}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def _range(noun: str, numbers: Sequence[int]) -> str:
    first, last = min(numbers), max(numbers)
    return f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
