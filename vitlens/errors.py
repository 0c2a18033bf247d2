"""The one kind of error that vitlens raises for wrong input: a sentence that says what was wrong and what to do."""

import difflib
import operator
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Wrong input. The message is one sentence (or two) for the person at the prompt; the CLI prints it as it is."""


def reason(error: BaseException) -> str:
    """What an error of another library says, on one line and not at length; its kind where it says nothing."""
    said = " ".join(str(error).split())
    return (said if len(said) <= 300 else f"{said[:297]}…") or type(error).__name__


def nearest(name: str, choices: Iterable[str], n: int = 5) -> str:
    """The choices that look most like `name`, as text for an error message."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=n, cutoff=0.4)
    return ", ".join(close or choices[:n])


def require_whole(**numbers: Any) -> None:
    """Raises InputError unless every keyword's value is a whole number: no fraction, truth value or text."""
    for name, value in numbers.items():
        try:
            operator.index(value)
        except TypeError:
            pass
        else:
            if not isinstance(value, bool):
                continue
        raise InputError(f"{name} is a whole number, not {value!r}")


def require_seed(seed: Any) -> None:
    """Raises InputError unless the seed is a whole number that is not negative, as generators take it."""
    require_whole(seed=seed)
    if seed < 0:
        raise InputError(f"a seed is 0 or more, not {seed}")
