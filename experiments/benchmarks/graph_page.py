"""Size, opening time and speed of the page of an attribution graph in headless Chromium; random weights and transcoders.

python experiments/benchmarks/graph_page.py
python experiments/benchmarks/graph_page.py --model vit_tiny_patch16_224 --nodes 200 --clicks 20
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
from features_page import noise, opening
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.table import Table

import vitlens

#: What is done, from `view` and a random number `r`.
ACTS = {
    "a node is clicked": "view.pick(view.at().shown.nodes[r % view.at().shown.nodes.length].key)",
    "a node that was not drawn is chosen": "view.pick(view.at().merged.ranking[r % view.at().merged.ranking.length].key)",
    "a patch is clicked": "view.select([1 + r % 196], false, 0)",
    "more or fewer nodes": "view.choose({nodes: 20 + r % 300})",
    "patches one by one, or together": "view.choose({together: !view.state.together})",
}
# Until the frame after the one that everything was drawn for.
TIMED = """(r) => new Promise((done) => {
  const view = document.getElementById('explorer').view, start = performance.now();
  %s;
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


def main(
    model: Annotated[str, typer.Option(help="a timm name")] = "vit_base_patch16_224",
    nodes: Annotated[int, typer.Option(help="features that become nodes")] = 2000,
    expansion: Annotated[int, typer.Option(help="features of a transcoder, as a multiple of the stream's width")] = 16,
    pictures: Annotated[
        int, typer.Option(help="how many pictures examples are looked for in, of noise and colour")
    ] = 16,
    drawn: Annotated[int, typer.Option(help="nodes that are drawn when one is clicked")] = 100,
    clicks: Annotated[int, typer.Option(help="how often each thing is done; medians are printed")] = 40,
) -> None:
    torch.manual_seed(0)
    vit = vitlens.HookedViT.from_timm(model, pretrained=False)
    d = vit.cfg.d_model
    transcoders = {}
    for hook, hook_out in vitlens.features.mlp_hooks(vit):
        W = torch.nn.functional.normalize(torch.randn(expansion * d, d), dim=1)
        transcoders[hook] = vitlens.features.Transcoder.from_arrays(
            W.T.contiguous(), None, W, None, activation="topk", k=32, hook=hook, hook_out=hook_out
        )
    table = Table("measure", "value", title=f"page of a graph of {nodes:,} nodes, {model}")
    images = torch.cat(list(noise(pictures)))
    start = time.perf_counter()
    explorer = vitlens.explore_graph(
        vit, images[:1], [0], transcoders=transcoders, n_nodes=nodes, data=images, batch_size=4, progress=False
    )
    table.add_row("graph and measuring", f"{time.perf_counter() - start:.0f} s")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "page.html"
        explorer.save(page)
        table.add_row(
            "page", f"{page.stat().st_size / 2**20:.1f} MiB, {len(explorer.tensors['edge_effect_0']):,} edges"
        )
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1440, "height": 900})
        table.add_row("opening", f"{opening(shown, page):.2f} s")
        shown.evaluate(f"document.getElementById('explorer').view.choose({{nodes: {drawn}, edges: {3 * drawn}}})")
        for name, act in ACTS.items():
            times = [shown.evaluate(TIMED % act, random.randrange(2**20)) for _ in range(clicks)]
            table.add_row(name, f"median {statistics.median(times):.0f} ms, largest {max(times):.0f} ms")
        browser.close()
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
