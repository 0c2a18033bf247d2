"""What scoring a heatmap costs: rows of forwards and time for one picture, beside so many plain forwards.

For every curve: how many pictures go through the first block for one map of one picture, and the time over that of `steps`
plain forwards in batches of the same size, both in turn in one process; the median of the repeats.

\b
    python experiments/benchmarks/faithfulness.py
    python experiments/benchmarks/faithfulness.py --model vit_tiny_patch16_224 --steps 100
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlens import HookedViT, evaluate_heatmaps
from vitlens.cli import check_device, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
METRICS = ("deletion", "insertion", "negative", "positive", "pixel_positive", "road_morf", "sensitivity_n", "saco")


@app.command(help=__doc__)
def main(
    model: Annotated[str, typer.Option(help="a timm name; random weights")] = "vit_base_patch16_224",
    steps: Annotated[int, typer.Option(help="steps of a curve")] = 50,
    batch_size: Annotated[int, typer.Option(help="pictures of one forward")] = 16,
    repeats: Annotated[int, typer.Option(help="repeats whose median is printed")] = 3,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    check_device(device)
    torch.manual_seed(0)
    hooked = HookedViT.from_timm(model, pretrained=False, device=device)
    image = torch.randn(1, hooked.cfg.n_channels, *hooked.cfg.image_size, device=device)
    importance = torch.rand(1, *hooked.cfg.grid_size, device=device)
    table = Table(
        "metric", "rows of forwards", "× the time of the plain ones",
        title=f"{model}, one picture, one map, {steps} steps, batches of {batch_size}, random weights",
    )  # fmt: skip
    for metric in METRICS:

        def score(metric: str = metric) -> None:
            evaluate_heatmaps(
                hooked, image, 0, heatmaps=importance, metrics=metric, n_steps=steps, batch_size=batch_size, baselines=False,
                progress=False,
            )  # fmt: skip

        rows = rows_of(hooked, score)
        ratios = [seconds(score) / seconds(lambda: plain(hooked, image, steps, batch_size)) for _ in range(repeats)]
        table.add_row(metric, str(rows), f"{statistics.median(ratios):.2f}")
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads on {device}, torch {torch.__version__}, float32", highlight=False)


def rows_of(model: HookedViT, work: Callable[[], None]) -> int:
    """How many pictures go through the first block."""
    rows: list[int] = []

    def count(stream: Tensor, hook: object) -> None:
        rows.append(len(stream))

    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", count)]):
        work()
    return sum(rows)


def plain(model: HookedViT, image: Tensor, n: int, batch_size: int) -> None:
    with torch.no_grad():
        for start in range(0, n, batch_size):
            model(image.expand(min(batch_size, n - start), -1, -1, -1))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    run(app)
