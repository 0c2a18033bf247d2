"""The one kind of error that vitlens raises for wrong input: a sentence that says what was wrong and what to do."""

import difflib
import os
import unicodedata
from collections.abc import Iterable


class InputError(ValueError):
    """Wrong input. The message is one sentence (or two) for the person at the prompt; the CLI prints it as it is."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def nearest(name: str, choices: Iterable[str], n: int = 5) -> str:
    """The choices that look most like `name`, as text for an error message."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=n, cutoff=0.4)
    return ", ".join(close or choices[:n])


def printable(name: str | os.PathLike[str]) -> str:
    r"""A path or other text as every output can hold it: bytes that are no UTF-8 and control characters are written out.

    Python keeps such bytes of file names as lone surrogates, which no terminal, table, JSON or HTML can encode: the name
    of the bytes `caf\xe9.png` comes out as those twelve letters. Line breaks and tabs stay.
    """
    text = os.fspath(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(letter) for letter in text)


def _written_out(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t":
        return letter.encode("unicode_escape", "backslashreplace").decode() if letter < "\ud800" else f"\\u{ord(letter):04x}"
    return letter
