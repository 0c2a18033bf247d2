"""Every code that is cited, such as "Methods A5", has its place on the page of methods, once."""

import ast
import re
from pathlib import Path

from doc_pages import PAGES, REPOSITORY

CODE = r"[A-E]\d"
CITATION = re.compile(rf"\bMethods ({CODE}(?:(?:, | and | to ){CODE})*)")
ANCHORS = re.findall(r'<a id="([^"]+)"></a>', (PAGES / "methods.md").read_text())
FILES = [
    path
    for folder in ("vitlens", "experiments", "docs")
    for ending in ("py", "pyi", "md", "ipynb", "html", "js")
    for path in sorted((REPOSITORY / folder).rglob(f"*.{ending}"))
] + [REPOSITORY / "README.md"]


def cited(text: str) -> list[str]:
    return [code for codes in CITATION.findall(text) for code in re.findall(CODE, codes)]


def test_each_code_has_one_place():
    assert len(ANCHORS) == len(set(ANCHORS))
    headings = re.findall(rf'^### <a id="(.+?)"></a>({CODE}) \w', (PAGES / "methods.md").read_text(), re.MULTILINE)
    assert [code.lower() for _, code in headings] == [anchor for anchor, _ in headings]
    assert len(headings) == 21


def test_every_cited_code_has_its_place():
    found = {path.relative_to(REPOSITORY): cited(path.read_text()) for path in FILES}
    missing = {str(path): code for path, codes in found.items() for code in codes if code.lower() not in ANCHORS}
    assert not missing
    assert len({code for codes in found.values() for code in codes}) > 10


def test_nothing_cites_a_document_that_readers_do_not_have():
    assert not [path for path in FILES if re.search(r"METHODS(\.md| [A-E]\d)", path.read_text())]


def test_codes_are_cited_as_methods():
    """A bare "A5" leads nowhere on the site."""
    found = {}
    for path in sorted((REPOSITORY / "vitlens").rglob("*.py")):
        sentences = [text for text in docstrings(path) if re.search(rf"\b{CODE}\b", CITATION.sub("", text))]
        if sentences:
            found[path.name] = sentences
    assert not found


def docstrings(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
