"""Size, opening time and speed of the explorer's page in headless Chromium; random weights, any timm name.

python experiments/benchmarks/explorer.py
python experiments/benchmarks/explorer.py --model vit_large_patch16_224 --pictures 4 --clicks 20
"""

import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from vitlens import HookedViT, explore
from vitlens.demo import demo_folder

# From the pointer's press to the frame after the one that everything was drawn for.
CLICK = """([x, y]) => new Promise((done) => {
  const frame = document.querySelector('[data-panel=picture] .frame'), box = frame.getBoundingClientRect();
  const at = {clientX: box.left + x * box.width, clientY: box.top + y * box.height, pointerId: 1, button: 0};
  frame.setPointerCapture = () => {};
  const start = performance.now();
  frame.dispatchEvent(new PointerEvent('pointerdown', at));
  frame.dispatchEvent(new PointerEvent('pointerup', at));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""
KEY = """(key) => new Promise((done) => {
  const start = performance.now();
  document.querySelector('[data-panel=picture] .frame').dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


def main(
    model: Annotated[str, typer.Option(help="a timm name")] = "vit_base_patch16_224",
    pictures: Annotated[int, typer.Option(help="how many pictures")] = 1,
    clicks: Annotated[int, typer.Option(help="patches that are clicked; medians are printed")] = 40,
) -> None:
    hooked = HookedViT.from_timm(model, pretrained=False)
    files = sorted((demo_folder() / "pictures").glob("*.png"))[:pictures]
    table = Table(
        "measure", "value", title=f"explorer, {model}, {pictures} picture(s), {torch.get_num_threads()} threads"
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        start = time.perf_counter()
        explorer = explore(hooked, files, progress=False)
        table.add_row("measuring", f"{time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        explorer.save(page)
        table.add_row("writing", f"{time.perf_counter() - start:.1f} s")
        table.add_row("page", f"{page.stat().st_size / 2**20:.2f} MiB")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            opened = [_open(browser.new_page(viewport={"width": 1366, "height": 768}), page) for _ in range(3)]
            table.add_row("opening, median of 3", f"{statistics.median(seconds for seconds, _ in opened):.2f} s")
            shown = opened[-1][1]
            places = random.Random(0)
            redraws = [shown.evaluate(CLICK, [places.random(), places.random()]) for _ in range(clicks)]
            keys = [shown.evaluate(KEY, places.choice(("ArrowLeft", "ArrowRight", "ArrowUp"))) for _ in range(clicks)]
            for name, times in (("a click redraws", redraws), ("an arrow key redraws", keys)):
                table.add_row(name, f"median {statistics.median(times):.0f} ms, largest {max(times):.0f} ms")
            browser.close()
    Console().print(table)


def _open(page: Page, file: Path) -> tuple[float, Page]:
    """Seconds until everything is drawn."""
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector("#explorer[data-ready]", state="attached")
    return time.perf_counter() - start, page


if __name__ == "__main__":
    typer.run(main)
