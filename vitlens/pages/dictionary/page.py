"""The page of features: scripts, style, numbers and crops in one HTML file that needs no network."""

from pathlib import Path
from typing import Any

from vitlens.pages.explorer.page import FOLDER as SHARED
from vitlens.pages.explorer.page import SHARED_SCRIPTS, SHARED_STYLES
from vitlens.pages.one_file import as_text, in_folder, joined_files, render

OWN = Path(__file__).parent / "web"
#: The scripts in the order in which they make one module; those of the page about pictures come first.
OWN_SCRIPTS = (
    "words", "numbers", "labels", "list", "crops", "histogram", "card", "active", "elsewhere", "doses", "choices", "top",
    "browser", "open",
)  # fmt: skip
OWN_STYLES = ("features", "narrow")


def features_page(facts: dict[str, Any], numbers: bytes, crops: list[str]) -> str:
    """The HTML file; everything from outside is JSON that scripts show as text."""
    return render(
        SHARED / "tensors.html.j2",
        facts=facts,
        style=features_style(),
        script=features_script(),
        start="openFeatures()",
        numbers=as_text(numbers),
        crops="\n".join(crops),
    )


def features_script() -> str:
    """One ECMAScript module, the same for the page and the notebook."""
    return joined_files(*SHARED_SCRIPTS, *in_folder(OWN, OWN_SCRIPTS, "js"))


def features_style() -> str:
    """The style sheet, the same for the page and the notebook."""
    return joined_files(*SHARED_STYLES, *in_folder(OWN, OWN_STYLES, "css"))
