"""What is chosen in an explorer: picture, token, block, head, classes, marked tokens."""

from dataclasses import dataclass, field
from typing import Any

from vitlens.errors import InputError


@dataclass
class Limits:
    """What there is to choose from."""

    n_pictures: int
    n_tokens: int
    blocks: list[int]
    n_heads: int
    classes: list[list[int]]

    def check(self, what: str, value: Any, picture: int = 0) -> None:
        """Raises InputError unless there is such a picture, token, block, head or class (of a picture)."""
        known = {
            "picture": range(self.n_pictures),
            "token": range(self.n_tokens),
            "block": self.blocks,
            "head": range(self.n_heads),
            "class": self.classes[picture],
        }[what]
        if value not in known:
            shown = f"{known[0]} to {known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
            raise InputError(f"this explorer shows no {what} {value!r}: it has {shown}")


@dataclass
class Selection:
    """Every choice by its name; `choose` is the way to change one.

    `head` is None for all heads together; `token` counts the prefix tokens and then the patches row by row; `wanted_class`
    and `baseline_class` are indices of classes, None for the picture's first and for no difference.
    """

    limits: Limits
    picture: int = 0
    token: int = 0
    block: int = 0
    head: int | None = None
    wanted_class: int | None = None
    baseline_class: int | None = None
    marked: list[int] = field(default_factory=list)

    def choose(self, name: str, value: Any) -> None:
        """
        Raises:
            InputError: there is no such picture, token, block, head or class on the page.
        """
        if name == "marked":
            value = [int(token) for token in value]
            for token in value:
                self.limits.check("token", token)
        elif name in ("wanted_class", "baseline_class"):
            if value is not None:
                self.limits.check("class", value, self.picture)
        elif name != "head" or value is not None:
            self.limits.check(name, value)
        setattr(self, name, value)

    def as_json(self) -> dict[str, Any]:
        names = ("picture", "token", "block", "head", "wanted_class", "baseline_class", "marked")
        return {name: getattr(self, name) for name in names}
