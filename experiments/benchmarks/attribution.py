"""What direct logit attribution costs: peak memory and time of each unit beside the plain forward and one with its cache.

Memory is the peak of a process of its own for each row, in which the model is built, with random weights, and the row run
once. Times are taken in one process, all rows in turn; the median ratio to the plain forward is printed.

\b
    python experiments/benchmarks/attribution.py
    python experiments/benchmarks/attribution.py --classes all --unit head_patch
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from machine import processor
from rich.console import Console
from rich.table import Table

from vitlens import HookedViT, direct_logit_attribution

UNITS = ["component", "head", "head_patch", "neuron", "token", "path"]
NOTHING, PLAIN, CACHED, SMALLER = (
    "the model alone", "plain forward", "forward with its cache", "without hook_result in it",
)  # fmt: skip
TARGET = 1.5


def main(
    model: Annotated[str, typer.Option(help="timm name; random weights")] = "vit_base_patch16_224",
    batch: Annotated[int, typer.Option(help="pictures")] = 8,
    unit: Annotated[list[str] | None, typer.Option(help="units; by default all")] = None,
    classes: Annotated[str, typer.Option(help='"predicted" or "all"')] = "predicted",
    repeats: Annotated[int, typer.Option(help="rounds for the times; 0 for memory alone")] = 5,
    row: Annotated[str | None, typer.Option(help="run this row once and print the peak memory", hidden=True)] = None,
) -> None:
    if row is not None:
        runs(model, batch, classes)[row]()
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    rows = [PLAIN, CACHED, SMALLER, *(unit or UNITS)]
    peaks = {name: peak(name, model, batch, classes) for name in [NOTHING, *rows]}
    ratios = times(runs(model, batch, classes), rows, repeats) if repeats else {}
    table = Table(
        "", "peak [MiB]", "× with its cache", "above the model [MiB]", "× with its cache", "time × plain",
        title=f"{model}, batch {batch}, classes {classes}, random weights\n{processor()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}, float32",
    )  # fmt: skip
    for name in rows:
        above, of_cache = peaks[name] - peaks[NOTHING], peaks[CACHED] - peaks[NOTHING]
        table.add_row(
            name, f"{peaks[name] / 2**20:.0f}", f"{peaks[name] / peaks[CACHED]:.2f}", f"{above / 2**20:.0f}",
            f"{above / of_cache:.2f}", f"{ratios[name]:.2f}" if name in ratios else "",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    if "head_patch" in peaks:
        ratio = peaks["head_patch"] / peaks[CACHED]
        console.print(f"head_patch: {ratio:.2f} × the forward with its cache (target {TARGET})", highlight=False)


def runs(name: str, batch: int, classes: str) -> dict[str, Callable[[], object]]:
    """What each row does."""
    torch.manual_seed(0)
    model = HookedViT.from_timm(name, pretrained=False)
    images = torch.randn(batch, model.cfg.n_channels, *model.cfg.image_size)
    chosen = "all" if classes == "all" else None
    attributions = {
        unit: lambda unit=unit: direct_logit_attribution(model, images, chosen, unit=unit) for unit in UNITS
    }
    return {
        NOTHING: lambda: None,
        PLAIN: torch.no_grad()(lambda: model(images)),
        CACHED: torch.no_grad()(lambda: model.run_with_cache(images)),
        SMALLER: torch.no_grad()(
            lambda: model.run_with_cache(images, names_filter=lambda name: not name.endswith("hook_result"))
        ),
        **attributions,
    }


def peak(row: str, model: str, batch: int, classes: str) -> int:
    """The peak memory in bytes of a process that builds the model and runs one row."""
    options = ["--row", row, "--model", model, "--batch", str(batch), "--classes", classes]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.rsplit("peak ", 1)[1]) * 1024


def times(runs: dict[str, Callable[[], object]], rows: list[str], repeats: int) -> dict[str, float]:
    """The median of each row's ratio to the plain forward of the same round."""
    rounds = []
    for number in range(repeats + 1):
        seconds = {}
        for row in rows:
            start = time.perf_counter()
            runs[row]()
            seconds[row] = time.perf_counter() - start
        # The first round warms up.
        rounds += [seconds] if number else []
    return {row: statistics.median(seconds[row] / seconds[PLAIN] for seconds in rounds) for row in rows}


if __name__ == "__main__":
    typer.run(main)
