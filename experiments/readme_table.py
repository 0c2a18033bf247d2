"""Tables between marks in the README, "<!-- NAME: begin -->" and "<!-- NAME: end -->": for the scripts that measure them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitlens.errors import InputError
from vitlens.files import write_whole

README = Path(__file__).parents[1] / "README.md"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def renew(name: str, content: str) -> None:
    """Puts a table in the place of the one that stands there.

    Raises:
        InputError: the README has no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = README.read_text()
    if begin not in text or end not in text:
        raise InputError(f"README.md has no marks {begin} and {end}")
    renewed = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)
    write_whole(README, renewed.encode())
