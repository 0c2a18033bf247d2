"""Writes the demo's 100 pictures: 50 test garments, each on its own texture and, at the same place, on a conflicting one.

python experiments/make_demo_pictures.py
"""

import io
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from demo_fashion import (
    CLASS_NAMES,
    TEXTURE_NAMES,
    Placement,
    compose,
    conflicting_contexts,
    draw_textures,
    load_garments,
)
from PIL import Image

from vitlens.files import make_folder, write_whole

PAIRS_PER_CLASS = 5


def main(
    out: Annotated[Path, typer.Option(help="folder of the demo")] = Path("assets/demo"),
    fashion: Annotated[Path | None, typer.Option(help="folder of Fashion-MNIST's IDX files")] = None,
    seed: Annotated[int, typer.Option(help="of garments, places and textures")] = 7,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    garments = load_garments("test", fashion)
    order = torch.randperm(len(garments), generator=generator)
    chosen = torch.cat([order[garments.labels[order] == label][:PAIRS_PER_CLASS] for label in range(len(CLASS_NAMES))])
    garments = garments.take(chosen)
    placement = Placement.draw(len(garments), generator)
    conflicting = conflicting_contexts(garments.labels, generator)
    for folder in ("pictures", "masks"):
        make_folder(out / folder)
    rows = []
    for contexts, kind in ((garments.labels, "agreeing"), (conflicting, "conflicting")):
        pictures = compose(garments, placement, draw_textures(contexts, generator), contexts)
        for i in range(len(garments)):
            label, context = int(garments.labels[i]), int(contexts[i])
            file = f"{i:02d}_{CLASS_NAMES[label].replace(' ', '_')}_{kind}.png"
            write_whole(out / "pictures" / file, as_png(pictures.images[i].permute(1, 2, 0)))
            write_whole(out / "masks" / file, as_png(pictures.masks[i]))
            rows.append(
                {
                    "pair": i,
                    "kind": kind,
                    "file": file,
                    "label": label,
                    "label_name": CLASS_NAMES[label],
                    "context": context,
                    "texture": TEXTURE_NAMES[context],
                    "fashion_mnist_test_index": int(chosen[i]),
                }
            )
    table = pd.DataFrame(rows).sort_values(["pair", "kind"], kind="stable")
    write_whole(out / "pictures.csv", table.to_csv(index=False).encode())
    print(f"wrote {len(table)} pictures and their masks to {out}")


def as_png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    typer.run(main)
