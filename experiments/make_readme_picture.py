"""Takes the README's picture: part of the demo's report, as Chromium shows it. Needs the extra `dev` and Chromium.

make demo && python experiments/make_readme_picture.py
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import sync_playwright

from vitlens.files import write_whole

FIGURES = ("Token-mask", "Patching resid_pre")


def main(
    page: Annotated[Path, typer.Option(help="the page to show")] = Path("out/demo/report.html"),
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("assets/readme.png"),
) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1240, "height": 900})
        shown.goto(page.resolve().as_uri())
        # Only the header and two rows of figures; the page itself has all of them.
        shown.evaluate(
            "titles => { document.querySelectorAll('.row').forEach(row => {"
            "const shows = [...row.querySelectorAll('.plotly-graph-div')].some(div =>"
            "titles.some(title => div.layout.title.text.startsWith(title)));"
            "if (!shows) row.remove(); });"
            "document.querySelectorAll('section').forEach(part => part.querySelector('.row') || part.remove());"
            "document.querySelector('footer').remove(); }",
            list(FIGURES),
        )
        shown.wait_for_timeout(1500)
        write_whole(out, shown.locator("main").screenshot())
        browser.close()
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
