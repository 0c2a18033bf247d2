"""What the commands and the experiments' scripts share: which model is meant, and how errors end them."""

import sys
from pathlib import Path

import typer
from rich.console import Console

from vitlens.errors import InputError

DEMO = "demo"


def load_model(name: str, checkpoint: Path | None, random_weights: bool, device: str = "cpu"):
    """The model that the common options mean."""
    from vitlens.data.demo import load_demo_model
    from vitlens.model.hooked_vit import HookedViT

    check_device(device)
    if name == DEMO:
        if checkpoint is not None or random_weights:
            raise InputError("the demo model comes with its weights: --checkpoint needs --model with a timm name")
        return load_demo_model().to(device)
    return HookedViT.from_timm(name, pretrained=not random_weights, checkpoint_path=checkpoint, device=device)


def check_device(device: str) -> None:
    """Raises InputError unless tensors can be made there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def run(command: typer.Typer) -> None:
    """Runs a command line; an InputError ends it with its sentence and exit code 2, without a traceback."""
    try:
        command()
    except InputError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)
