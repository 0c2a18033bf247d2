"""The one kind of error that vitlens raises for wrong input: a sentence that says what was wrong and what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message is one sentence (or two) for the person at the prompt; the CLI prints it as it is."""


def nearest(name: str, choices: Iterable[str], n: int = 5) -> str:
    """The choices that look most like `name`, as text for an error message."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=n, cutoff=0.4)
    return ", ".join(close or choices[:n])
