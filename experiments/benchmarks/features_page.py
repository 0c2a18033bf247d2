"""Size, opening time and speed of the page of a dictionary's features in headless Chromium; random weights.

python experiments/benchmarks/features_page.py
python experiments/benchmarks/features_page.py --features 65536 --pictures 2000 --clicks 20
"""

import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

import vitlens

#: What is done, from `view`, a random feature `f` and a random token `t`.
ACTS = {
    "a feature is chosen": "view.choose({feature: f})",
    "a patch is clicked": "view.select([t], false)",
    "a letter is searched": "view.list.input.value = 'abcdefgh'[f % 8]; view.list.refresh()",
    "the list is sorted": "view.list.sortBy(['density', 'largest', 'number'][f % 3], true)",
}
# Until the frame after the one that everything was drawn for.
TIMED = """([f, t]) => new Promise((done) => {
  const view = document.getElementById('explorer').view, start = performance.now();
  %s;
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


def main(
    features: Annotated[int, typer.Option(help="how many features the dictionary has")] = 16384,
    pictures: Annotated[int, typer.Option(help="how many pictures are gone through, of noise and colour")] = 500,
    depth: Annotated[int, typer.Option(help="blocks of the model, a ViT-Ti/16; the page costs none more")] = 1,
    clicks: Annotated[int, typer.Option(help="how often each thing is done; medians are printed")] = 40,
) -> None:
    torch.manual_seed(0)
    model = vitlens.HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, depth=depth)
    W = torch.nn.functional.normalize(torch.randn(features, model.cfg.d_model), dim=1)
    sae = vitlens.features.SparseAutoencoder.from_arrays(
        W.T.contiguous(), None, W, None, activation="topk", k=32, hook="resid_post0"
    )
    table = Table("measure", "value", title=f"page of {features:,} features, {pictures:,} pictures")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        start = time.perf_counter()
        explorer = vitlens.explore_features(
            model, sae, lambda: noise(pictures), n_runs=5, batch_size=16, progress=False
        )
        table.add_row("measuring", f"{time.perf_counter() - start:.0f} s")
        table.add_row("largest memory", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        explorer.save(page)
        table.add_row("page", f"{page.stat().st_size / 2**20:.1f} MiB, {len(explorer.crops):,} crops")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            shown = browser.new_page(viewport={"width": 1440, "height": 900})
            table.add_row("opening", f"{opening(shown, page):.2f} s")
            for name, act in ACTS.items():
                times = [shown.evaluate(TIMED % act, place(features)) for _ in range(clicks)]
                table.add_row(name, f"median {statistics.median(times):.0f} ms, largest {max(times):.0f} ms")
            browser.close()
    Console().print(table)


def noise(n: int) -> Iterator[torch.Tensor]:
    """Batches of pictures of colours that change slowly, with noise on them, which compress as photographs do."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, n, 16):
        small = torch.rand(min(16, n - start), 3, 12, 12, generator=generator) * 2 - 1
        smooth = torch.nn.functional.interpolate(small, 224, mode="bicubic")
        yield (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(-1, 1)


def place(features: int) -> list[int]:
    return [random.randrange(features), random.randrange(1, 197)]


def opening(page: Page, file: Path) -> float:
    """Seconds until everything is drawn."""
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector("#explorer[data-ready]", state="attached")
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
