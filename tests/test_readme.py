"""The README's IPython session runs and shows what the README shows; its commands and files exist."""

import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def session() -> list[tuple[str, str | None]]:
    block = re.search(r"```\n(In \[1\].*?)```", README, re.DOTALL)
    assert block is not None
    cells = re.split(r"^In \[\d+\]: ", block[1], flags=re.MULTILINE)[1:]
    parts = [re.split(r"^Out\[\d+\]: ", cell, flags=re.MULTILINE) for cell in cells]
    return [(part[0].strip(), part[1].strip() if len(part) > 1 else None) for part in parts]


def test_the_session_shows_what_the_readme_shows():
    cells = session()
    assert 8 <= len(cells) <= 14
    shell = InteractiveShell.instance()
    for code, shown in cells:
        outcome = shell.run_cell(code)
        outcome.raise_error()
        assert shown == (None if outcome.result is None else repr(outcome.result)), code


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:experiments|assets|tests)/[\w./]+\w", README))))
def test_every_file_that_is_named_exists(path):
    assert (REPOSITORY / path).exists()


def test_every_call_that_is_named_exists():
    import vitlens

    for name in re.findall(r"vitlens\.(\w+)", README):
        assert hasattr(vitlens, name), name
