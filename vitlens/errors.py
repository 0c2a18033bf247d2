"""The one kind of error that vitlens raises for wrong input: a sentence that says what was wrong and what to do."""

import difflib
from collections.abc import Iterable


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
