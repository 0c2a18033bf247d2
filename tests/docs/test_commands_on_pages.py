"""The commands that pages and the README show exist, with the options that they show."""

import re
from pathlib import Path

import pytest
import typer
from doc_pages import REPOSITORY, sources

from vitlens.cli.main import app

PAGES = sources() | {"README.md": (REPOSITORY / "README.md").read_text()}
SHOWN = re.compile(r"(?:^ {4}|`)((?:vitlens |python experiments/|torchrun |make )(?:[^`\n#\\]|\\\n)*)", re.MULTILINE)
OPTION = re.compile(r"(?<!\S)(--?[a-z][\w-]*)")
COMMANDS = sorted(
    {" ".join(text.replace("\\\n", " ").split()) for page in PAGES.values() for text in SHOWN.findall(page)}
)
TYPER = typer.main.get_command(app)


def of_vitlens(words: str) -> set[str]:
    """The options of a command of vitlens."""
    name = words.split()[1] if len(words.split()) > 1 else ""
    command = TYPER if name.startswith("-") or not name else TYPER.commands[name]  # type: ignore[attr-defined]
    shared = {"--help", "--version", "--install-completion"}
    return shared | {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("words", [words for words in COMMANDS if re.match(r"vitlens [a-z]", words)])
def test_commands_of_vitlens(words):
    assert set(OPTION.findall(words)) <= of_vitlens(words)


@pytest.mark.parametrize("words", [words for words in COMMANDS if "experiments/" in words])
def test_scripts(words):
    script = re.search(r"experiments/\S+\.py", words)
    assert script is not None
    text = (REPOSITORY / script[0]).read_text()
    own = words[words.index(script[0]) :]
    for option in OPTION.findall(own):
        named = option.lstrip("-").replace("-", "_")
        assert option in text or re.search(rf"\b{named}\b", text) or script[0].endswith("paper.py"), option


@pytest.mark.parametrize("words", [words for words in COMMANDS if re.match(r"make [a-z]", words)])
def test_targets(words):
    makefile = Path(REPOSITORY / "Makefile").read_text()
    assert re.search(rf"^{words.split()[1]}:", makefile, re.MULTILINE)


def test_there_are_commands():
    assert len(COMMANDS) > 30
    assert any("--train-split" in words for words in COMMANDS)
