"""The one kind of error that vitlens raises for wrong input: a sentence that says what was wrong and what to do."""

import difflib
import os
import re
from collections.abc import Iterable

#: Control characters and lone surrogates, which stand for half a letter or for a byte that is no UTF-8.
ODD_LETTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

#: An error message lists all names if there are at most this many.
AT_A_GLANCE = 16


class InputError(ValueError):
    """Wrong input. The message is one sentence (or two) for the user; the command line prints it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def reason(error: BaseException) -> str:
    """The message of another library's error on one line, shortened; its class if it has no message."""
    said = " ".join(str(getattr(error, "strerror", None) or error).split())
    return (said if len(said) <= 300 else f"{said[:297]}…") or type(error).__name__


def nearest(name: str, choices: Iterable[str], n: int = 5) -> str:
    """The choices that look most like `name`, as text for an error message; if none does, all of a few."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=n, cutoff=0.4)
    return ", ".join(close or (choices if len(choices) <= AT_A_GLANCE else choices[:n]))


def printable(name: str | os.PathLike[str]) -> str:
    r"""A path or other text as every output can hold it: bytes that are no UTF-8 and control characters are written out.

    Python keeps such bytes of file names as lone surrogates, which no terminal, table, JSON or HTML can encode: the byte e9
    comes out as the four letters \xe9. Line breaks and tabs stay.
    """
    return ODD_LETTERS.sub(_written_out, os.fspath(name))


def _written_out(letter: re.Match[str]) -> str:
    number = ord(letter[0])
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
