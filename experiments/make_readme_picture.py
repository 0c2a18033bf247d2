"""Takes the README's picture: the first screen of the demo's page, as Chromium shows it. Needs the extra `dev` and Chromium.

make demo && python experiments/make_readme_picture.py
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import sync_playwright

from vitlens.files import write_whole


def main(
    page: Annotated[Path, typer.Option(help="the page to show")] = Path("out/demo/page.html"),
    out: Annotated[Path, typer.Option(help="the picture to write")] = Path("assets/readme.png"),
) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1440, "height": 1000}, color_scheme="light")
        # The second picture is the one that the README speaks of: a T-shirt that the model takes for a bag.
        shown.goto(f"{page.resolve().as_uri()}#picture=1")
        shown.wait_for_selector("[data-panel=picture] canvas")
        shown.wait_for_timeout(1500)
        write_whole(out, shown.screenshot())
        browser.close()
    print(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
