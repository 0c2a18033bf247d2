"""Time and peak memory of the attribution graph of one picture: a random ViT-B/16, with random transcoders of its MLPs.

The time is printed in seconds and as a multiple of one forward and backward pass of the same model on the same picture.

    python experiments/benchmarks/attribution_graph.py
    python experiments/benchmarks/attribution_graph.py --n-nodes 500 --neurons
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from machine import processor
from rich.console import Console
from rich.table import Table

from vitlens.circuits import attribution_graph
from vitlens.cli import check_device, run
from vitlens.features import Transcoder, mlp_hooks
from vitlens.model import HookedViT

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
MODEL = "vit_base_patch16_224"
REPEATS = 5


@app.command(help=__doc__)
def main(
    n_nodes: Annotated[list[int], typer.Option(help="numbers of nodes")] = [200, 2000],  # noqa: B006
    expansion: Annotated[int, typer.Option(help="features of a transcoder, as a multiple of the stream's width")] = 16,
    k: Annotated[int, typer.Option(help="active features of each token and block")] = 32,
    neurons: Annotated[bool, typer.Option("--neurons", help="the MLPs' own neurons in place of transcoders")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    check_device(device)
    torch.manual_seed(0)
    model = HookedViT.from_timm(MODEL, pretrained=False, device=device)
    image = torch.randn(1, 3, *model.cfg.image_size, device=device)
    transcoders = None if neurons else random_transcoders(model, expansion, k)
    once = statistics.median(seconds(lambda: forward_backward(model, image)) for _ in range(REPEATS))
    table = Table(
        "nodes", "active units", "seconds", "× a forward and backward", "× for each node", "peak memory", title=MODEL
    )
    before = peak()
    for n in n_nodes:
        graphs = []

        def make(n: int = n, graphs: list = graphs) -> None:
            graphs.append(attribution_graph(model, image, 0, transcoders=transcoders, n_nodes=n, progress=False))

        took = seconds(make)
        active = graphs[0].settings["active_units"]
        table.add_row(
            f"{n:,}", f"{active:,}", f"{took:.1f}", f"{took / once:.0f}", f"{took / once / n:.3f}", f"{peak():.2f} GB"
        )
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    console.print(
        f"{once:.2f} s for one forward and backward; {before:.2f} GB before the first graph; "
        f"{torch.get_num_threads()} threads of {processor()}, {device}, float32",
        highlight=False,
    )


def random_transcoders(model: HookedViT, expansion: int, k: int) -> dict[str, Transcoder]:
    """Of every MLP: directions drawn at random, written as they are read."""
    width = model.cfg.d_model
    made = {}
    for hook, hook_out in mlp_hooks(model):
        W_enc = torch.randn(width, expansion * width, device=model.device) / width**0.5
        about = {"activation": "topk", "k": k, "hook": hook, "hook_out": hook_out}
        made[hook] = Transcoder.from_arrays(W_enc, None, W_enc.T / k, None, **about)
    return made


def forward_backward(model: HookedViT, image: torch.Tensor) -> None:
    logits = model(image)
    logits[0, 0].backward()
    model.zero_grad()


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak() -> float:
    """In GB; Linux counts in kB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


if __name__ == "__main__":
    run(app)
