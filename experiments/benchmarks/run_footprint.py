"""What a run over a data set takes: peak memory for few and for many pictures, and bytes on disk for each.

Each run is a process of its own. The pictures are the demo's, repeated in a Parquet file; for the bytes on disk of a large
model they are noise.

    python experiments/benchmarks/run_footprint.py
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from rich.console import Console

from vitlens.cli import run
from vitlens.data import open_pictures

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
FEATURES = Features({"image": Image(), "mask": Image(), "label": Value("int64")})
MEASURE = """
import resource, sys
from vitlens.cli.main import app
sys.argv = ["vitlens", *sys.argv[1:]]
try:
    app()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@app.command(help=__doc__)
def main(
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="the two runs of the demo")] = True,
    few: Annotated[int, typer.Option(help="pictures of the small run")] = 200,
    many: Annotated[int, typer.Option(help="pictures of the large run")] = 2000,
    model: Annotated[
        str, typer.Option(help="whose bytes on disk are measured; random weights")
    ] = "vit_base_patch16_224",
    pictures: Annotated[int, typer.Option(help="how many pictures for that")] = 16,
) -> None:
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if memory:
            peaks = {}
            for n in (few, many):
                demo_table(folder / f"{n}.parquet", n)
                peaks[n], _ = measured(folder / f"run-{n}", "--data", folder / f"{n}.parquet", "--n-steps", 4)
                console.print(f"peak memory, demo model, {n:,} pictures: {peaks[n] / 2**20:.0f} MiB", highlight=False)
            console.print(f"ratio {peaks[many] / peaks[few]:.3f} (target 1.05)", highlight=False)
        noise_table(folder / "noise.parquet", pictures)
        out = folder / "large"
        _, records = measured(
            out, "--model", model, "--random-weights", "--data", folder / "noise.parquet", "--n-steps", 49,
            "--n-random-models", 1, "--n-random-orders", 1,
        )  # fmt: skip
        size = sum(path.stat().st_size for path in records.iterdir()) / pictures
        console.print(
            f"on disk, {model}, eight experiments: {size / 1000:.1f} kB a picture (target 20)", highlight=False
        )


def measured(out: Path, *arguments: object) -> tuple[int, Path]:
    """Runs `vitlens reproduce` in a process of its own: its peak memory in bytes, and where its records are."""
    command = [sys.executable, "-c", MEASURE, "reproduce", *map(str, arguments), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.rsplit("peak ", 1)[1]) * 1024, out / "records"


def demo_table(path: Path, n: int) -> None:
    """The demo's pictures and masks, again and again."""
    rows = [row for _, rows in open_pictures("demo", None, 10).chunks(100) for row in rows]

    def read(source: dict) -> dict:
        return {"bytes": Path(source["path"]).read_bytes(), "path": None}

    entries = [
        {"image": read(row["image"]), "mask": read(row["mask"]), "label": row["label"]}
        for row in (rows[i % len(rows)] for i in range(n))
    ]
    Dataset.from_list(entries, features=FEATURES).to_parquet(path)


def noise_table(path: Path, n: int) -> None:
    """Pictures of noise with half of each as mask: what compresses worst."""
    generator = np.random.default_rng(0)

    def png(array: np.ndarray) -> dict:
        buffer = io.BytesIO()
        PILImage.fromarray(array).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    mask = np.zeros((256, 256), dtype=np.uint8)
    mask[:128] = 255
    entries = [
        {"image": png(generator.integers(0, 255, (256, 256, 3), dtype=np.uint8)), "mask": png(mask), "label": 37 * i}
        for i in range(n)
    ]
    Dataset.from_list(entries, features=FEATURES).to_parquet(path)


if __name__ == "__main__":
    run(app)
