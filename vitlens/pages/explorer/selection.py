"""What is chosen in an explorer: picture, token, block, head, classes, marked tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.picture import Measured, Settings


@dataclass
class Limits:
    """What there is to choose from; `classes` are those that each picture has in detail, `n_classes` of all the number
    that can be chosen besides (0: none)."""

    n_pictures: int
    n_tokens: int
    blocks: list[int]
    n_heads: int
    classes: list[list[int]]
    n_classes: int = 0

    def check(self, what: str, value: Any, picture: int = 0) -> None:
        """Raises InputError unless there is such a picture, token, block, head or class (of a picture)."""
        known = {
            "picture": range(self.n_pictures),
            "token": range(self.n_tokens),
            "block": self.blocks,
            "head": range(self.n_heads),
            "class": range(self.n_classes) if self.n_classes else self.classes[picture],
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


def first_selection(
    model: HookedViT, measured: Sequence[Measured], settings: Settings, head: tuple[int, int] | None
) -> Selection:
    """What is chosen before anybody chooses: the first picture's first class, and the head that writes most of it."""
    tensors = measured[0].tensors
    blocks, n_tokens = settings.blocks, tensors["pattern"].shape[-1]
    limits = Limits(
        len(measured),
        n_tokens,
        blocks,
        model.cfg.n_heads,
        [picture.facts["classes"] for picture in measured],
        model.cfg.n_classes if settings.holds_all_classes(model) else 0,
    )
    chosen = Selection(limits, block=blocks[-1])
    if head is not None:
        chosen.block, chosen.head = head
    elif "heads" in tensors:
        place, chosen.head = divmod(int(tensors["heads"][0].argmax()), model.cfg.n_heads)
        chosen.block = blocks[place]
    if not model.cfg.n_prefix_tokens and "shares" in tensors:
        shares = tensors["shares"][0] * tensors["shares_scale"][0][..., None]
        chosen.token = int(shares.sum(axis=(0, 1)).argmax())
    return chosen
