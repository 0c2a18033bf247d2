"""The page of attribution graphs: scripts, style, numbers and crops in one HTML file that needs no network."""

from pathlib import Path
from typing import Any

from vitlens.pages.dictionary.page import OWN as DICTIONARY_WEB
from vitlens.pages.explorer.page import FOLDER as SHARED
from vitlens.pages.explorer.page import SHARED_SCRIPTS, SHARED_STYLES
from vitlens.pages.one_file import as_text, in_folder, joined_files, render

GRAPH_WEB = Path(__file__).parent / "web"
#: The scripts in the order in which they make one module, behind those that pages share.
GRAPH_SCRIPTS = (
    *SHARED_SCRIPTS,
    *in_folder(DICTIONARY_WEB, ("words", "crops"), "js"),
    *in_folder(
        GRAPH_WEB,
        ("terms", "graph", "merged", "choices", "layout", "board", "node_card", "edges", "account", "groups", "compare",
         "browser", "open"),
        "js",
    ),
)  # fmt: skip
GRAPH_STYLES = (
    *SHARED_STYLES,
    *in_folder(DICTIONARY_WEB, ("features",), "css"),
    *in_folder(GRAPH_WEB, ("graph",), "css"),
)


def graph_page(facts: dict[str, Any], numbers: bytes, crops: list[str]) -> str:
    """The HTML file; everything from outside is JSON that scripts show as text."""
    return render(
        SHARED / "tensors.html.j2",
        facts=facts,
        style=joined_files(*GRAPH_STYLES),
        script=joined_files(*GRAPH_SCRIPTS),
        start="openGraph()",
        numbers=as_text(numbers),
        crops="\n".join(crops),
    )
