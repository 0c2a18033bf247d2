"""What the commands and the experiments' scripts share: which model is meant, and how errors end them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

DEMO = "demo"
DTYPES = ("float32", "float64", "bfloat16", "float16")


def load_model(
    name: str,
    checkpoint: Path | None,
    random_weights: bool,
    device: str = "cpu",
    dtype: str = "float32",
    class_names: Path | None = None,
) -> "HookedViT":
    """The model that the common options mean.

    Raises:
        InputError: as `HookedViT.from_timm`; a device or precision that cannot be used; not one name for each class.
    """
    import torch

    from vitlens.data.class_names import read_class_names
    from vitlens.data.demo import load_demo_model
    from vitlens.model.hooked_vit import HookedViT

    check_dtype(dtype)
    check_device(device)
    precision = getattr(torch, dtype)
    if name == DEMO:
        if checkpoint is not None or random_weights:
            raise InputError("the demo model comes with its weights: --checkpoint needs --model with a timm name")
        hooked = load_demo_model().to(device).to(precision)
    else:
        # The same command has the same random weights every time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hooked = HookedViT.from_timm(
                name, pretrained=not random_weights, checkpoint_path=checkpoint, device=device, dtype=precision
            )
    if class_names is not None:
        hooked.class_names = read_class_names(class_names, hooked.cfg.n_classes)
    return hooked


def check_dtype(dtype: str) -> None:
    """Raises InputError unless models compute in it."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype is one of {', '.join(DTYPES)}, not {dtype!r}")


def check_device(device: str) -> None:
    """Raises InputError unless tensors can be made there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def require_classes(model: "HookedViT") -> None:
    """Raises InputError where the model has no classifier, before any work is done."""
    if model.unembed is None:
        raise InputError(
            f"{model.cfg.model_name} has no classifier, so there is no class to ask for: give weights that have one with "
            "--checkpoint, or choose another --model"
        )


def is_watched() -> bool:
    """Whether somebody watches progress bars."""
    return sys.stderr.isatty()


def complain(sentence: str) -> None:
    """An error, on stderr."""
    Console(stderr=True, soft_wrap=True).print(f"error: {sentence}", style="red", highlight=False, markup=False)


def run(command: typer.Typer) -> None:
    """Runs a command line; what is wrong with its input ends it with one sentence and exit code 2, without a traceback."""
    try:
        # On its own typer would print its usage errors as panels of several lines.
        status = command(standalone_mode=False)
    except (InputError, typer.TyperException) as error:
        sentence = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        # It is empty where no argument at all was given, and help was printed.
        if sentence:
            complain(sentence)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        complain("memory is not enough: take fewer pictures, a smaller --batch-size or model, or another --device")
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _is_out_of_memory(error: Exception) -> bool:
    """Python's error, torch's on a GPU, or the one that torch has no class for."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "DefaultCPUAllocator: can't allocate memory" in str(error)
