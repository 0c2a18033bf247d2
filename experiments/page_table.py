"""Tables between marks on the documentation's pages, "<!-- NAME: begin -->" and "<!-- NAME: end -->": for the scripts that
measure them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vitlens.errors import InputError
from vitlens.files import write_whole

PAGES = Path(__file__).parents[1] / "docs" / "pages"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def renew(page: str, name: str, content: str) -> None:
    """Replaces a table of a page, such as "model.md".

    Raises:
        InputError: the page has no such marks.
    """
    path = PAGES / page
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text()
    if begin not in text or end not in text:
        raise InputError(f"{path} has no marks {begin} and {end}")
    renewed = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{content}\n{end}", text, flags=re.DOTALL)
    write_whole(path, renewed.encode())
