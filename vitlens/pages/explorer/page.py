"""The page: scripts, style and measurements in one HTML file that needs no network."""

from pathlib import Path
from typing import Any

from vitlens.pages.explorer.measure.picture import Measured
from vitlens.pages.one_file import as_text, in_folder, joined_files, pack_tensors, render

FOLDER = Path(__file__).parent / "web"
#: The scripts in the order in which they make one module.
SCRIPTS = (
    "element", "colours", "measured", "state", "glossary", "screen", "stage", "layers", "strip", "board", "lines",
    "scatter", "bars", "series", "cards", "data_set", "part", "features", "swap", "given", "notes", "sentences", "search",
    "compare", "keyboard", "drawing", "export", "picture", "panels", "head", "view", "host",
)  # fmt: skip
STYLES = ("style", "frame", "picture", "drawings", "cards", "widths")
#: Those of them that pages of other things begin with.
SHARED_SCRIPTS = in_folder(
    FOLDER,
    ("element", "colours", "measured", "state", "glossary", "screen", "stage", "bars", "cards", "drawing", "export"),
    "js",
)
SHARED_STYLES = in_folder(FOLDER, ("style", "frame", "picture", "drawings", "cards"), "css")


def explorer_page(facts: dict[str, Any], pictures: list[bytes]) -> str:
    """The HTML file; everything from outside is JSON that scripts show as text."""
    return render(
        FOLDER / "page.html.j2",
        facts=facts,
        style=style(),
        script=script(),
        pictures=[as_text(picture) for picture in pictures],
    )


def pack_measured(measured: Measured) -> bytes:
    """The tensors of a picture as a compressed safetensors file."""
    return pack_tensors(measured.tensors)


def script() -> str:
    """One ECMAScript module, the same for the page and the notebook."""
    return joined_files(*in_folder(FOLDER, SCRIPTS, "js"))


def style() -> str:
    """The style sheet, the same for the page and the notebook."""
    return joined_files(*in_folder(FOLDER, STYLES, "css"))
