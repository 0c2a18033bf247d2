"""Prints the demo model's accuracy on the 10,000 test garments, on agreeing, plain and conflicting backgrounds.

python experiments/evaluate_demo_model.py
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from demo_fashion import (
    Placement,
    compose,
    conflicting_contexts,
    draw_plain,
    draw_textures,
    load_garments,
)
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vitlens.demo import load_demo_model

BACKGROUNDS = ("agreeing", "plain", "conflicting")


def main(
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's IDX files")] = None,
    seed: Annotated[int, typer.Option(help="of places and textures")] = 1,
    garments: Annotated[int, typer.Option(help="only the first so many of the 10,000")] = 10_000,
    batch_size: Annotated[int, typer.Option(help="pictures per forward")] = 250,
) -> None:
    accuracy = evaluate(fashion, seed, garments, batch_size)
    table = Table("background", "accuracy", title=f"demo model, {garments:,} test garments")
    for background, value in accuracy.items():
        table.add_row(background, f"{value:.2%}")
    Console().print(table)


@torch.inference_mode()
def evaluate(fashion: Path | None, seed: int, n_garments: int, batch_size: int) -> pd.Series:
    """Accuracy by background; every garment stands at the same place on all three."""
    model = load_demo_model()
    garments = load_garments("test", fashion)
    garments = garments.take(torch.arange(min(n_garments, len(garments))))
    generator = torch.Generator().manual_seed(seed)
    right = dict.fromkeys(BACKGROUNDS, 0)
    for index in tqdm(torch.arange(len(garments)).split(batch_size), desc="evaluating", unit="batch"):
        batch = garments.take(index)
        placement = Placement.draw(len(batch), generator)
        conflicting = conflicting_contexts(batch.labels, generator)
        backgrounds = {
            "agreeing": draw_textures(batch.labels, generator),
            "plain": draw_plain(len(batch), generator),
            "conflicting": draw_textures(conflicting, generator),
        }
        for name, background in backgrounds.items():
            images = compose(batch, placement, background, batch.labels).images / 127.5 - 1
            right[name] += int((model(images).argmax(dim=-1) == batch.labels).sum())
    return pd.Series(right) / len(garments)


if __name__ == "__main__":
    typer.run(main)
