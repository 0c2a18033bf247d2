"""Time and peak memory of naming all heads of a random ViT-B/16 with a joint space of 512 dimensions, over two numbers of
pictures: the memory is the same for both, and the time grows by that of the forwards.

Each number of pictures runs in a process of its own. The pictures are noise, and made batch by batch.

    python experiments/benchmarks/names.py
    python experiments/benchmarks/names.py --n-images 200 --n-images 2000 --device cuda
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Annotated

import torch
import typer
from machine import processor
from rich.console import Console
from rich.table import Table

from vitlens.cli import check_device, run
from vitlens.model import HookedViT
from vitlens.text import TextTower, name_heads

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
MODEL, JOINT = "vit_base_patch16_clip_224", 512
#: Batches whose forwards are timed alone.
FORWARDS_TIMED = 4


@app.command(help=__doc__)
def main(
    n_images: Annotated[list[int], typer.Option(help="numbers of pictures")] = [32, 128],  # noqa: B006
    n_texts: Annotated[int, typer.Option(help="random texts")] = 3500,
    k: Annotated[int, typer.Option(help="texts for each head")] = 5,
    n_draws: Annotated[int, typer.Option(help="shuffles, and sets of random texts")] = 10,
    batch_size: Annotated[int, typer.Option(help="pictures per forward")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    check_device(device)
    columns = ("pictures", "seconds", "per picture", "a forward alone", "peak memory", "on the device")
    table = Table(*columns, title=f"{MODEL}, {n_texts} texts")
    for n in n_images:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            cells = pool.submit(measured, n, n_texts, k, n_draws, batch_size, device).result()
        table.add_row(f"{n:,}", *cells)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads of {processor()}, {device}, float32", highlight=False)


def measured(n: int, n_texts: int, k: int, n_draws: int, batch_size: int, device: str) -> tuple[str, ...]:
    """The cells of a row."""
    torch.manual_seed(0)
    model = HookedViT.from_timm(MODEL, pretrained=False, num_classes=JOINT, device=device)
    vectors = torch.randn(n_texts, JOINT) + torch.randn(JOINT) / 2
    tower = TextTower(lambda texts: vectors[[int(text) for text in texts]])
    size = model.cfg.image_size

    def pictures() -> Iterator[torch.Tensor]:
        generator = torch.Generator(device).manual_seed(1)
        for start in range(0, n, batch_size):
            yield torch.randn(min(batch_size, n - start), 3, *size, generator=generator, device=device)

    start = time.perf_counter()
    n_timed = 0
    with torch.no_grad():
        for batch in islice(pictures(), FORWARDS_TIMED):
            model(batch)
            n_timed += len(batch)
    forward = (time.perf_counter() - start) / n_timed
    start = time.perf_counter()
    about = {"tower": tower, "k": k, "n_draws": n_draws, "batch_size": batch_size, "progress": False}
    name_heads(model, pictures, [str(i) for i in range(n_texts)], **about)
    seconds = time.perf_counter() - start
    # Linux counts in kB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)
    on_device = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GB" if device.startswith("cuda") else "–"
    return f"{seconds:.1f}", f"{1000 * seconds / n:.0f} ms", f"{1000 * forward:.0f} ms", f"{peak:.2f} GB", on_device


if __name__ == "__main__":
    run(app)
