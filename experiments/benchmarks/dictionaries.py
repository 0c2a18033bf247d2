"""What training a dictionary costs: a step beside Overcomplete's own, beside the model's forward, and its peak memory.

Both trainers get the same batches of the same activations, the same width and k, in turn in one process; each time is the
median over rounds, and ratios are taken within a round. Overcomplete's is its `train_sae`, without its monitoring. Memory is
the peak of a process of its own, for some pictures and for four times as many.

\b
    python experiments/benchmarks/dictionaries.py
    python experiments/benchmarks/dictionaries.py --width 192 --k 32 --repeats 9
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import typer
from machine import processor
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitlens.demo import load_demo_model
from vitlens.features import train
from vitlens.features.places import HookPlace
from vitlens.features.training.learner import Learner
from vitlens.features.training.settings import KINDS, TrainingSettings
from vitlens.workers import Workers

HERE = HookPlace("activations", 1, 0)
#: TopK with the auxiliary loss of dead features, in both.
REVIVING = "topk, reviving"


def main(
    width: Annotated[int, typer.Option(help="width of the activations")] = 192,
    expansion: Annotated[int, typer.Option(help="features per dimension")] = 8,
    k: Annotated[int, typer.Option(help="active features of a row")] = 16,
    batch_rows: Annotated[int, typer.Option(help="rows of a step")] = 1024,
    steps: Annotated[int, typer.Option(help="steps of a round")] = 20,
    repeats: Annotated[int, typer.Option(help="rounds; 0 for memory alone")] = 5,
    pictures: Annotated[
        int, typer.Option(help="pictures of the small training; the large one has 4 times as many")
    ] = 500,
    memory: Annotated[bool, typer.Option(help="also measure memory")] = True,
    peak_of: Annotated[int | None, typer.Option(help="train once on this many pictures", hidden=True)] = None,
) -> None:
    if peak_of is not None:
        train_on(peak_of)
        print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    console = Console(width=120)
    if repeats:
        console.print(of_steps(width, expansion, k, batch_rows, steps, repeats))
    if memory:
        few, many = peak(pictures), peak(4 * pictures)
        console.print(
            f"peak memory, demo model: {few / 2**10:.0f} MiB with {pictures:,} pictures, {many / 2**10:.0f} MiB with "
            f"{4 * pictures:,}: ratio {many / few:.3f} (target 1.05)",
            highlight=False,
        )


def of_steps(width: int, expansion: int, k: int, batch_rows: int, steps: int, repeats: int) -> Table:
    """Seconds of a step of both trainers for each kind, and their ratio."""
    torch.manual_seed(0)
    # A low-rank code and noise: rows that a dictionary can learn, and that cost what any rows cost.
    rows = torch.randn(steps * batch_rows, 4 * width).relu().pow(3) @ torch.randn(4 * width, width)
    batches = list((rows / rows.std()).split(batch_rows))
    table = Table(
        "kind", "ours [ms]", "Overcomplete [ms]", "ours / Overcomplete", "step / forward of its rows",
        title=f"a step of {batch_rows} rows, {width} wide, {expansion * width} features, k {k}\n{processor()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32",
    )  # fmt: skip
    forward = statistics.median(seconds(forward_of(batch_rows)) for _ in range(3))
    for name in [*KINDS, REVIVING]:
        kind = KINDS[0] if name == REVIVING else name
        dead_after = batch_rows if name == REVIVING else None
        settings = TrainingSettings(
            kind, k, expansion, dead_after=dead_after, n_rows=1000 * steps * batch_rows, batch_rows=batch_rows
        )
        ours, theirs = our_trainer(batches, settings), overcomplete_trainer(name, batches, expansion, k)
        rounds = [(seconds(ours) / steps, seconds(theirs) / steps) for _ in range(repeats + 1)][1:]
        own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(mine / their for mine, their in rounds)
        table.add_row(name, f"{own * 1e3:.1f}", f"{other * 1e3:.1f}", f"{ratio:.2f}", f"{own / forward:.2f}")
    return table


def our_trainer(batches: list[Tensor], settings: TrainingSettings) -> Callable[[], None]:
    """A function that goes on training ours for a step on each batch."""
    first = {HERE.name: torch.cat(batches)}
    learner = Learner(HERE, HERE, first, settings, Workers("cpu"), seed=0)

    def go() -> None:
        for batch in batches:
            learner.step({HERE.name: batch})

    return go


def overcomplete_trainer(kind: str, batches: list[Tensor], expansion: int, k: int) -> Callable[[], None]:
    """The same for Overcomplete's."""
    sae_module = import_overcomplete()
    width = batches[0].shape[1]
    make, options = {
        "topk": (sae_module.TopKSAE, {"top_k": k}),
        "batchtopk": (sae_module.BatchTopKSAE, {"top_k": k * len(batches[0])}),
        "jumprelu": (sae_module.JumpSAE, {"kernel": "rectangle"}),
        "relu": (sae_module.SAE, {}),
        REVIVING: (sae_module.TopKSAE, {"top_k": k}),
    }[kind]
    sae = make(width, expansion * width, **options)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-4)

    def criterion(x: Tensor, written: Tensor, pre: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
        loss = (x - written).square().mean()
        if kind in ("relu", "jumprelu"):
            return loss + 1e-3 * codes.abs().sum(dim=1).mean()
        if kind == REVIVING:
            return sae_module.losses.top_k_auxiliary_loss(x, written, pre, codes, dictionary)
        return loss

    return lambda: sae_module.train_sae(sae, batches, criterion, optimiser, nb_epochs=1, monitoring=0)


def import_overcomplete() -> Any:
    """Overcomplete's sparse autoencoders; its colour maps ask matplotlib at import for a function that is gone."""
    import matplotlib.cm

    if not hasattr(matplotlib.cm, "get_cmap"):
        matplotlib.cm.get_cmap = lambda name=None, lut=None: matplotlib.colormaps[name or "viridis"]
    import overcomplete.sae

    return overcomplete.sae


def forward_of(rows: int) -> Callable[[], object]:
    """The demo model's forward on as many pictures as have these rows, up to the stream after block 3."""
    model = load_demo_model()
    images = torch.randn(max(1, round(rows / model.cfg.n_ctx)), model.cfg.n_channels, *model.cfg.image_size)
    return torch.no_grad()(lambda: model(images, stop_at_layer=4, return_type=None))


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def train_on(n_pictures: int) -> None:
    """Trains once on pictures that are drawn as they are needed, each of which is seen once."""
    model = load_demo_model()

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, n_pictures, 50):
            n = min(50, n_pictures - start)
            yield torch.rand(n, model.cfg.n_channels, *model.cfg.image_size, generator=generator) * 2 - 1

    train(model, batches, "resid_post1", k=8, n_rows=n_pictures * model.cfg.n_ctx, buffer_rows=16_384, progress=False)


def peak(n_pictures: int) -> int:
    """The peak memory of a process that trains on so many pictures, in KiB."""
    done = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(n_pictures)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.rsplit("peak ", 1)[1])


if __name__ == "__main__":
    typer.run(main)
