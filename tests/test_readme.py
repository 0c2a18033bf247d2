"""The README is short, its example prints what it shows, and what it names and links to exists."""

import ast
import re
import tomllib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from doc_pages import check_call, links

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PRINTED = "# > "


def statements(block: str) -> list[tuple[str, str]]:
    """The statements of a block of code, each with what the lines "# > …" below it say that it prints."""
    lines = block.splitlines()
    found = []
    for statement in ast.parse(block).body:
        assert statement.end_lineno is not None
        shown = []
        for line in lines[statement.end_lineno :]:
            if not line.startswith(PRINTED):
                break
            shown.append(line.removeprefix(PRINTED))
        found.append(("\n".join(lines[statement.lineno - 1 : statement.end_lineno]), "\n".join(shown)))
    return found


def test_it_is_short():
    assert len(README.encode()) <= 8192


def test_the_example_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = statements(BLOCKS[0])
    assert len(code) == 12
    for source, shown in code:
        with redirect_stdout(StringIO()) as printed:
            exec(source, names)
        assert printed.getvalue().strip() == shown.strip(), source
    assert list(tmp_path.iterdir())
    before = names["logits"]
    exec(BLOCKS[1], names)
    assert not names["logits"].equal(before)


def test_the_calls_on_your_own_model_fit_their_signatures():
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(BLOCKS[2])) if isinstance(node, ast.Call)]
    checked = [call for call in calls if re.fullmatch(r"(vitlens|model)[\w.]*\(.*", call) and ")." not in call]
    assert len(checked) == 4
    for call in checked:
        check_call(call)


def test_it_states_the_oldest_versions_that_serve():
    bounds = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    oldest = {name: re.search(rf"{name}>=([\d.]+)", " ".join(bounds["dependencies"])) for name in ("torch", "timm")}
    assert f"Python {bounds['requires-python'].removeprefix('>=')}" in README
    assert all(version is not None and f"{name} {version[1]}" in README for name, version in oldest.items())


def test_every_call_that_is_named_exists():
    for name in re.findall(r"`((?:vitlens|model)\.[\w.]+)`", README):
        check_call(name)


@pytest.mark.parametrize(
    "path", sorted({*links(README), *re.findall(r"`((?:experiments|assets|tests)/[\w./]+)`", README)})
)
def test_every_file_that_is_named_exists(path):
    assert (REPOSITORY / path).exists()
