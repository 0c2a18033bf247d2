"""What a reader finds in a model trained with text: how it embeds sentences, and how it compares them with pictures."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.arguments import short
from vitlens.errors import InputError

#: A lost end of a sentence is shown up to here.
LONGEST_LOST = 60


@dataclass(frozen=True)
class TextReading:
    """Embeds sentences with the module that was read.

    `scale` is exp(logit_scale), None where the module has none; `bias` is SigLIP's logit_bias.
    """

    embed: Callable[[list[str]], Tensor]
    scale: float | None
    bias: float | None
    name: str


def scale_and_bias(module: Any) -> tuple[float | None, float | None]:
    """exp(logit_scale) and logit_bias of a whole model, where it has them."""
    scale, bias = getattr(module, "logit_scale", None), getattr(module, "logit_bias", None)
    return (
        None if scale is None else scale.detach().double().exp().item(),
        None if bias is None else bias.detach().double().item(),
    )


def check_tokens(tokens: Tensor, n_known: int | None) -> None:
    """Raises InputError if there are tokens that the tower does not know."""
    largest = int(tokens.max())
    if n_known is not None and largest >= n_known:
        raise InputError(
            f"the tokenizer has a token {largest}, and the tower knows {n_known}: they do not belong together"
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without dropout; the modes of all parts are put back as they were."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def warn_of_cut_texts(
    texts: Sequence[str],
    words: Sequence[Sequence[int]],
    room: int,
    spell: Callable[[Any], str],
    from_left: bool = False,
) -> None:
    """Says which texts are longer than the tower reads, and what of the first of them is lost.

    Args:
        words: the tokens of each text, without those that mark its beginning and end.
        room: how many of them the tower reads.
        spell: makes text of tokens.
        from_left: whether the beginning is cut, in place of the end.
    """
    long = [i for i, tokens in enumerate(words) if len(tokens) > room]
    if not long:
        return
    tokens = words[long[0]]
    lost = spell(tokens[:-room] if from_left else tokens[room:]).strip()
    _warn_of_lost(
        f"the tower reads {room} tokens of a text, and {short(texts[long[0]])} has {len(tokens)}", lost, len(long)
    )


def warn_of_unread_ends(texts: Sequence[str], tokens: Tensor, read: Callable[[list[str]], Tensor]) -> None:
    """The same of a tokenizer that only gives tokens, cut to the tower's length: texts that have the same tokens without
    their last word.

    Args:
        tokens: of each text.
        read: the tokenizer.
    """
    several = [i for i, text in enumerate(texts) if len(text.split()) > 1]
    if not several:
        return
    shorter = read([texts[i].rsplit(maxsplit=1)[0] for i in several])
    long = [i for i, row in zip(several, shorter, strict=True) if torch.equal(row, tokens[i])]
    if not long:
        return
    words = texts[long[0]].split()
    rows = read([" ".join(words[:n]) for n in range(1, len(words))])
    n_read = next((n for n, row in enumerate(rows, 1) if torch.equal(row, tokens[long[0]])), len(words) - 1)
    _warn_of_lost(f"{short(texts[long[0]])} is longer than the tower reads", " ".join(words[n_read:]), len(long))


def _warn_of_lost(said: str, lost: str, n: int) -> None:
    """Of the first of n texts."""
    lost = lost if len(lost) <= LONGEST_LOST else f"{lost[:LONGEST_LOST]}…"
    others = f", and {n - 1} more {'is' if n == 2 else 'are'} too long" if n > 1 else ""
    warnings.warn(f"{said}: {lost!r} is not read{others}", stacklevel=4)
