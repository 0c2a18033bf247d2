"""Settings as fields of a data class: for each its default, its help on the command line, and its allowed values.

Nothing here imports torch, for the command line makes its options of these fields.
"""

from collections.abc import Sequence
from dataclasses import field, fields
from typing import Any

from vitlens.errors import InputError


def setting(default: Any, help: str, *, least: int | None = None, choices: Sequence[str] = ()) -> Any:
    """A field: what it does, its least value, and the values that it may have."""
    return field(default=default, metadata={"help": help, "least": least, "choices": tuple(choices)})


def check_settings(settings: Any) -> None:
    """Raises InputError for a field that is below its least value, or is none of its allowed values."""
    for item in fields(settings):
        value, least, choices = getattr(settings, item.name), item.metadata["least"], item.metadata["choices"]
        if value is not None and least is not None and value < least:
            raise InputError(f"{item.name} is at least {least}, not {value}")
        if choices and value not in choices:
            raise InputError(f"{item.name} is {' or '.join(choices)}, not {value!r}")
