"""What a sweep of activation patching costs, beside one whole forward per cell: ratios measured side by side in one run.

Every (block, token) cell of resid_pre, one pair of pictures, three ways: the engine; a loop of whole forwards on the same
model; transformer_lens.patching.generic_activation_patch on the same model. A share of the tokens stands for all of them in
the two loops (their cost per cell does not depend on the cell), spread evenly; the engine's cells are all run.

    python experiments/benchmarks/patching.py
    python experiments/benchmarks/patching.py --model vit_base_patch16_224 --share 1.0 --repeats 3
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter, make_df_from_ranges

from vitlens.cli import check_device, run
from vitlens.model import HookedViT
from vitlens.patching import activation_patching

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    model: Annotated[list[str], typer.Option(help="timm names; random weights")] = [  # noqa: B006
        "vit_base_patch16_224",
        "deit_tiny_patch16_224",
    ],
    share: Annotated[float, typer.Option(help="share of the tokens that the two loops run")] = 0.04,
    repeats: Annotated[int, typer.Option(help="repeats whose median is printed")] = 3,
    batch_size: Annotated[int | None, typer.Option(help="rows per forward of the engine [default: its choice]")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    check_device(device)
    torch.manual_seed(0)
    table = Table(title=f"all cells of resid_pre, one pair: milliseconds per cell, medians of {repeats}")
    for column in (
        "model",
        "cells",
        "engine",
        "whole forwards",
        "ratio",
        "TransformerLens",
        "ratio",
        "largest difference",
    ):
        table.add_column(column)
    memory = []
    for name in model:
        row, used = measure(name, share, repeats, batch_size, device)
        table.add_row(*row)
        memory.append(f"{name} {used}")
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    console.print(f"peak memory: {'; '.join(memory)}", highlight=False)
    console.print(f"{torch.get_num_threads()} threads on {device}, float32", highlight=False)


def measure(name: str, share: float, repeats: int, batch_size: int | None, device: str) -> tuple[tuple[str, ...], str]:
    """One model's row, and the memory that its sweep took."""
    model = HookedViT.from_timm(name, pretrained=False, device=device)
    with torch.random.fork_rng(devices=[]):
        # An untrained head may be zeros, and then every cell's effect is none.
        torch.nn.init.normal_(model.classifiers[0].weight, std=0.02)
    clean, corrupted = torch.randn(2, 1, 3, *model.cfg.image_size, device=device)
    n_blocks, n_tokens = model.cfg.n_layers, model.cfg.n_ctx
    tokens = torch.linspace(0, n_tokens - 1, max(1, round(share * n_tokens))).round().long().tolist()
    n_cells, n_some = n_blocks * n_tokens, n_blocks * len(tokens)
    found: dict[str, Tensor] = {}

    def metric(logits: Tensor) -> Tensor:
        return logits[:, 0] - logits[:, 1]

    def engine() -> None:
        result = activation_patching(model, clean, corrupted, metric=metric, batch_size=batch_size, progress=False)
        found["engine"] = result.patched[:, tokens, 0]

    def whole_forwards() -> None:
        found["loop"] = naive_loop(model, clean, corrupted, metric, tokens)

    def transformer_lens() -> None:
        _, cache = model.run_with_cache(clean, names_filter="resid_pre")
        cells = make_df_from_ranges([n_blocks, n_tokens], ["layer", "pos"])
        cells = cells[cells["pos"].isin(tokens)].reset_index(drop=True)
        found["transformer_lens"] = generic_activation_patch(
            model, corrupted, cache, lambda logits: metric(logits)[0], layer_pos_patch_setter, "resid_pre",
            index_df=cells, index_axis_names=None,
        ).reshape(n_blocks, len(tokens))  # fmt: skip

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "engine": (engine, n_cells),
        "loop": (whole_forwards, n_some),
        "transformer_lens": (transformer_lens, n_some),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.no_grad():
        model(clean)
        before = peak_bytes(device)
        engine()
        used = peak_bytes(device)
        for _ in range(repeats):
            for way, (function, n) in ways.items():
                start = time.perf_counter()
                function()
                synchronise(device)
                seconds[way].append((time.perf_counter() - start) / n)
    ours, loop, theirs = (statistics.median(seconds[way]) for way in ways)
    worst = max((found["engine"] - found[way]).abs().max().item() for way in ("loop", "transformer_lens"))
    milliseconds = [f"{1000 * value:.2f}" for value in (ours, loop, theirs)]
    row = (
        name, str(n_cells), milliseconds[0], milliseconds[1], f"{loop / ours:.2f} ×", milliseconds[2],
        f"{theirs / ours:.2f} ×", f"{worst:.1e}",
    )  # fmt: skip
    return row, f"{used / 2**20:.0f} MB ({(used - before) / 2**20:.0f} MB more than after one forward)"


def naive_loop(
    model: HookedViT, clean: Tensor, corrupted: Tensor, metric: Callable[[Tensor], Tensor], tokens: list[int]
) -> Tensor:
    """What a user would write: for every cell a hook and a whole forward."""
    _, cache = model.run_with_cache(clean, names_filter="resid_pre")
    values = torch.empty(model.cfg.n_layers, len(tokens), device=clean.device)
    for block in range(model.cfg.n_layers):
        name = f"blocks.{block}.hook_resid_pre"
        for i, token in enumerate(tokens):

            def patch(stream: Tensor, hook: object, name: str = name, token: int = token) -> Tensor:
                stream[:, token] = cache[name][:, token]
                return stream

            values[block, i] = metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)]))[0]
    return values


def peak_bytes(device: str) -> int:
    """The most memory this process has taken, on the GPU where it runs there."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    run(app)
