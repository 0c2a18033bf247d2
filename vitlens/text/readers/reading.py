"""What a reader finds in a model trained with text: how it embeds sentences, and how it compares them with pictures."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    lost = lost if len(lost) <= LONGEST_LOST else f"{lost[:LONGEST_LOST]}…"
    n_others = len(long) - 1
    others = f", and {n_others} more {'is' if n_others == 1 else 'are'} too long" if n_others else ""
    warnings.warn(
        f"the tower reads {room} tokens of a text, and {short(texts[long[0]])} has {len(tokens)}: {lost!r} is not "
        f"read{others}",
        stacklevel=3,
    )
