"""A model and its port on your own pictures: every block, the logits and the gradient, and the accuracy of both.

\b
    python experiments/compare_with_timm.py vit_tiny_patch16_224 --checkpoint FILE --pictures FOLDER

Pictures whose file names begin with a class index ("0281_….jpg") also give the accuracy. `vitlens verify` needs no pictures.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn
from tqdm import tqdm

from vitlens import HookedViT, InputError
from vitlens.cli import Timm, read_keywords, run
from vitlens.model.checkpoints.timm_models import build_timm
from vitlens.parity import verify_port

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    model: Annotated[str, typer.Argument(help="a timm name")],
    pictures: Annotated[Path, typer.Option(help="folder of pictures")],
    checkpoint: Annotated[Path | None, typer.Option(help="your own weights for it")] = None,
    timm: Timm = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="draw every parameter anew")] = False,
    batch_size: Annotated[int, typer.Option(help="pictures per forward")] = 10,
) -> None:
    if not pictures.is_dir():
        raise InputError(f"there is no folder {pictures}")
    files = sorted(path for path in pictures.iterdir() if path.is_file())
    if not files:
        raise InputError(f"there are no files in {pictures}")
    keywords = read_keywords(timm)
    report = verify_port(model, pretrained=not random_weights, checkpoint_path=checkpoint, images=files[:4], **keywords)
    Console().print(report)

    labelled = [file for file in files if file.name[:4].isdigit()]
    if labelled:
        module = build_timm(model, not random_weights, checkpoint, keywords)[0].eval()
        ours, theirs = accuracies(HookedViT.from_timm(module), module, labelled, batch_size)
        print(f"accuracy on {len(labelled)} pictures: vitlens {ours:.4%}, timm {theirs:.4%}")


@torch.inference_mode()
def accuracies(hooked: HookedViT, module: nn.Module, files: list[Path], batch_size: int) -> tuple[float, float]:
    """Of the port and of timm, on the same preprocessed pictures; the class index begins the file's name."""
    right = torch.zeros(2)
    for start in tqdm(range(0, len(files), batch_size), desc="pictures", unit="batch"):
        batch = files[start : start + batch_size]
        images, labels = hooked.to_images(batch), torch.tensor([int(file.name[:4]) for file in batch])
        for i, model in enumerate((hooked, module)):
            right[i] += (model(images).argmax(dim=-1) == labels).sum()
    return tuple((right / len(files)).tolist())


if __name__ == "__main__":
    run(app)
