"""Time and memory of a whole page, from the command line's start to the page on disk; random weights, any timm name.

python experiments/benchmarks/report.py
python experiments/benchmarks/report.py --model vit_large_patch16_224 --repeats 1
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from vitlens.demo import demo_folder

PICTURES = demo_folder() / "pictures"


def main(
    model: Annotated[str, typer.Option(help="a timm name")] = "vit_base_patch16_224",
    repeats: Annotated[int, typer.Option(help="runs of each kind; the median is printed")] = 3,
) -> None:
    clean, corrupted = sorted(PICTURES.glob("02_*.png"))
    table = Table("page", "seconds", "MiB", title=f"vitlens open, {model}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        command = [sys.executable, "-m", "vitlens.cli.main", "open", str(clean), "--model", model, "--random-weights"]
        for kind, more in (("one picture", []), ("two pictures", ["--against", str(corrupted)])):
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                subprocess.run([*command, *more, "--out", str(page)], check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
            table.add_row(kind, f"{statistics.median(seconds):.1f}", f"{page.stat().st_size / 2**20:.1f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    Console().print(table)
    print(f"peak memory of the largest of these processes: {peak:.2f} GiB")


if __name__ == "__main__":
    typer.run(main)
