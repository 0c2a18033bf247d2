"""Runs a model and its port side by side: largest differences of logits and blocks, and both accuracies on pictures.

\b
    python experiments/compare_with_timm.py vit_base_patch16_224 --random-weights
    python experiments/compare_with_timm.py vit_tiny_patch16_224 --checkpoint FILE --pictures FOLDER

Pictures whose file names begin with a class index ("0281_….jpg") also give the accuracy.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from vitlens import HookedViT, InputError
from vitlens.cli import run
from vitlens.model.loading import build_timm

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    model: Annotated[str, typer.Argument(help="a timm name")],
    checkpoint: Annotated[Path | None, typer.Option(help="your own weights for it")] = None,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="do not load any weights")] = False,
    pictures: Annotated[Path | None, typer.Option(help="folder of pictures [default: seeded noise]")] = None,
    batch_size: Annotated[int, typer.Option(help="pictures per forward")] = 10,
) -> None:
    module = build_timm(model, not random_weights, checkpoint, {}).eval()
    hooked = HookedViT.from_timm(module)
    files = sorted(path for path in pictures.iterdir() if path.is_file()) if pictures is not None else []
    if pictures is not None and not files:
        raise InputError(f"there are no files in {pictures}")
    sample = hooked.to_images(files[:4]) if files else _noise(hooked)

    table = Table(
        "numbers", "attention", "logits", "worst block", title=f"{model}: largest difference from timm, relative"
    )
    for dtype in (torch.float64, torch.float32):
        module.to(dtype)
        for attention, names in (("fused", "resid_post"), ("watched", None)):
            logits, blocks = compare(hooked, module, sample.to(dtype), names)
            table.add_row(str(dtype).removeprefix("torch."), attention, f"{logits:.1e}", f"{blocks:.1e}")
    Console().print(table)

    labelled = [file for file in files if file.name[:4].isdigit()]
    if labelled:
        ours, theirs = accuracies(hooked, module, labelled, batch_size)
        print(f"accuracy on {len(labelled)} pictures: vitlens {ours:.4%}, timm {theirs:.4%}")


def _noise(model: HookedViT) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, model.cfg.n_channels, *model.cfg.image_size, generator=generator)


@torch.inference_mode()
def compare(hooked: HookedViT, module: nn.Module, images: Tensor, names: str | None) -> tuple[float, float]:
    """Largest difference over largest magnitude, of the logits and of the worst block's output."""
    logits, cache = hooked.run_with_cache(images, names_filter=names)
    blocks = module.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    n_prefix = hooked.cfg.n_prefix_tokens
    differences = [_relative(cache["resid_post", i][:, n_prefix:], block) for i, block in enumerate(blocks)]
    return _relative(logits, module(images)), max(differences)


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


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
