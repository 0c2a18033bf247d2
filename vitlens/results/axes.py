"""Labels of axes: strings that carry what they name (row, column, block, head), so that no code parses the text."""

from collections.abc import Sequence
from typing import Any


class Label(str):
    """Text, equal to itself as plain text, in tables and prints; `facts` are what it knows besides."""

    facts: tuple[str, ...] = ()

    def __getnewargs__(self) -> tuple[Any, ...]:
        # By default, a copy or pickle of a str keeps only its text.
        return (str(self), *(getattr(self, fact) for fact in self.facts))

    def renamed(self, name: str) -> Any:
        """The same thing by another name."""
        return type(self)(name, *(getattr(self, fact) for fact in self.facts))


class TokenLabel(Label):
    """A token: `kind` "prefix" ("class", "register 2") or "patch" (at `row` and `column`, counted from the upper left);
    "set" of several tokens, or a reading of them."""

    facts = ("kind", "row", "column")
    kind: str
    row: int | None
    column: int | None

    def __new__(cls, text: str, kind: str, row: int | None = None, column: int | None = None) -> "TokenLabel":
        made = super().__new__(cls, text)
        made.kind, made.row, made.column = kind, row, column
        return made


class ComponentLabel(Label):
    """A part of the network: `kind` "embed", "attn", "head", "mlp", "neuron", "bias", "rest" (of a classifier of several
    layers) or "constant"; "path" where one part's output goes through another, "token" where it is what a part wrote there;
    in graphs also "input" and "logits", and "group" of several.

    `block`, `head` and `neuron` say where it stands; None of what has no such place.
    """

    facts = ("kind", "block", "head", "neuron")
    kind: str
    block: int | None
    head: int | None
    neuron: int | None

    def __new__(
        cls, text: str, kind: str, block: int | None = None, head: int | None = None, neuron: int | None = None
    ) -> "ComponentLabel":
        made = super().__new__(cls, text)
        made.kind, made.block, made.head, made.neuron = kind, block, head, neuron
        return made


class NodeLabel(Label):
    """A node of an attribution graph: `kind` "feature", "neuron", "error", "embed", "pos_embed" or "embed_norm", "logit",
    "group" of several, "constant" (biases), or "rest" (features that are no nodes).

    `block`, `token` (its place in the sequence) and `feature` (of a neuron its number) say where it stands; None of what
    has no such place.
    """

    facts = ("kind", "block", "token", "feature")
    kind: str
    block: int | None
    token: int | None
    feature: int | None

    def __new__(
        cls, text: str, kind: str, block: int | None = None, token: int | None = None, feature: int | None = None
    ) -> "NodeLabel":
        made = super().__new__(cls, text)
        made.kind, made.block, made.token, made.feature = kind, block, token, feature
        return made


def patch_label(row: int, column: int) -> TokenLabel:
    """ "(3, 7)"."""
    return TokenLabel(f"({row}, {column})", "patch", row, column)


def head_label(block: int, head: int) -> ComponentLabel:
    """ "L3H1"."""
    return ComponentLabel(f"L{block}H{head}", "head", block, head)


def head_bias_label(block: int, head: int) -> ComponentLabel:
    """ "L3H1 bias": what the norm behind a head adds."""
    return ComponentLabel(f"L{block}H{head} bias", "bias", block, head)


def neuron_label(block: int, neuron: int) -> ComponentLabel:
    """ "L3 neuron 17"."""
    return ComponentLabel(f"L{block} neuron {neuron}", "neuron", block, neuron=neuron)


def grid_of(labels: Sequence[TokenLabel]) -> tuple[int, int]:
    """Rows and columns of the grid that these labels of patches cover."""
    places = [(label.row, label.column) for label in labels if label.row is not None and label.column is not None]
    rows, columns = zip(*places, strict=True)
    return 1 + max(rows), 1 + max(columns)
