"""What a pass over a data set costs beside the forwards that nobody watches: ratios measured side by side in one run.

1. the measures of Methods A2 to A7 at all blocks and the three sites, over the plain forward of the same pictures;
2. the perturbation test (Methods D3) in batches, over one picture and one step at a time as the released code runs it;
3. the linear probes (Methods E1): pictures run through the network, over running it once per token and site.

    python experiments/benchmarks/dataset_pass.py
    python experiments/benchmarks/dataset_pass.py --model vit_base_patch32_224 --repeats 7
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from vitlens.cli import check_device, run
from vitlens.faithfulness import perturbation_test
from vitlens.faithfulness.perturbation import removal_steps
from vitlens.heatmaps.methods.baselines import random_importance
from vitlens.lens import ProbeFit
from vitlens.lens.measures import (
    change_values,
    composition_values,
    identifiability_rates,
    identifiability_values,
    picture_means,
    sublayer_change_values,
)
from vitlens.lens.trace import FULL_SITES, TraceObserver
from vitlens.model import HookedViT

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)


@app.command(help=__doc__)
def main(
    model: Annotated[str, typer.Option(help="a timm name; random weights")] = "vit_base_patch16_224",
    removal_model: Annotated[str, typer.Option(help="the model of the removal test")] = "vit_base_patch32_224",
    batch_size: Annotated[int, typer.Option(help="pictures per forward")] = 8,
    removal_batch: Annotated[int, typer.Option(help="pictures per step of removal")] = 16,
    steps: Annotated[int, typer.Option(help="steps of removal")] = 49,
    repeats: Annotated[int, typer.Option(help="repeats whose median is printed")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
) -> None:
    check_device(device)
    torch.manual_seed(0)
    table = Table("what", "model", "seconds", "beside it", "ratio", title=f"medians of {repeats}")
    table.add_row(*measures_row(model, batch_size, repeats, device))
    for as_released in (True, False):
        table.add_row(*removal_row(removal_model, removal_batch, steps, repeats, device, as_released))
    table.add_row(*probe_row(removal_model, batch_size, device))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    console.print(f"{torch.get_num_threads()} threads on {device}, float32", highlight=False)


def measures_row(name: str, batch_size: int, repeats: int, device: str) -> tuple[str, ...]:
    """The pass with Methods A2 to A7 over the plain forward of timm's own module."""
    model = HookedViT.from_timm(name, pretrained=False, device=device)
    assert model.architecture is not None
    plain = model.architecture().eval().to(device)
    images = torch.randn(batch_size, 3, *model.cfg.image_size, device=device)
    labels = torch.randint(model.cfg.n_classes, (batch_size,), device=device)

    def measured() -> None:
        observer = TraceObserver(model, labels, model.cfg.grid_size)
        model.run_with_hooks(images, fwd_hooks=observer.hooks())
        trace = observer.trace()
        identifiability_rates(trace)
        for values in (identifiability_values, change_values, sublayer_change_values, composition_values):
            picture_means(trace, values(trace))

    with torch.no_grad():
        slow, fast = side_by_side(measured, lambda: plain(images), repeats, device)
    what = f"Methods A2 to A7, {len(FULL_SITES)} sites × {model.cfg.n_layers} blocks, {model.cfg.n_classes} classes"
    return what, name, f"{slow:.3f}", f"timm's forward {fast:.3f}", f"{slow / fast:.2f} × the forward"


def removal_row(
    name: str, batch_size: int, steps: int, repeats: int, device: str, as_released: bool
) -> tuple[str, ...]:
    """One curve of Methods D3 for a batch of pictures, over the same curve one picture and one step at a time.

    The released code's model keeps the patterns, z and the projected attention output of every block in these runs too:
    `as_released` does the same, without it the runs are our model's own, unwatched.
    """
    model = HookedViT.from_timm(name, pretrained=False, device=device)
    images = torch.randn(batch_size, 3, *model.cfg.image_size, device=device)
    n_patches = model.cfg.grid_size[0] * model.cfg.grid_size[1]
    labels = torch.randint(model.cfg.n_classes, (batch_size,), device=device)
    order = random_importance(range(batch_size), n_patches).to(device)
    counts = removal_steps(n_patches, steps)
    found: dict[str, torch.Tensor] = {}

    def batched() -> None:
        test = perturbation_test(model, images, labels, importance=order, n_steps=steps, perturbations="negative")
        found["batched"] = test.probabilities[0]

    def project(value: torch.Tensor, hook: object) -> None:
        model.project(value, range(value.shape[1]))

    def keep(value: torch.Tensor, hook: object) -> None:
        kept.append(value)

    kept: list[torch.Tensor] = []
    watch = [("pattern", keep), ("z", keep), ("attn_out", project)] if as_released else []

    def one_by_one() -> None:
        rows = []
        with torch.no_grad(), model.hooks(watch):
            for i in range(batch_size):
                place = order[i].argsort().argsort()
                for count in counts:
                    keep = torch.cat([torch.ones(1, dtype=torch.bool, device=device), place >= count])
                    # As released: every step embeds the picture again and runs it alone.
                    stream = model(images[i : i + 1], stop_at_layer=0)[:, keep]
                    kept.clear()
                    rows.append(model(stream, start_at_layer=0).softmax(-1)[0, labels[i]])
        found["one by one"] = torch.stack(rows).reshape(batch_size, -1)

    fast, slow = side_by_side(batched, one_by_one, max(1, repeats // 2), device)
    worst = (found["batched"] - found["one by one"]).abs().max().item()
    assert worst < 1e-4, f"the curves differ by {worst}"
    what = f"Methods D3, {len(counts)} steps, {batch_size} pictures (curves agree to {worst:.0e})"
    how = "one by one, as released" if as_released else "one by one, unwatched"
    return what, name, f"{fast:.3f}", f"{how} {slow:.3f}", f"{slow / fast:.1f} × faster"


def probe_row(name: str, n_pictures: int, device: str) -> tuple[str, ...]:
    """Forwards counted, not timed."""
    model = HookedViT.from_timm(name, pretrained=False, num_classes=4, device=device)
    seen = [0]
    fit = ProbeFit(model, blocks=[0])

    def count(patches: torch.Tensor, hook: object) -> None:
        seen[0] += len(patches)

    images = torch.randn(n_pictures, 3, *model.cfg.image_size, device=device)
    with model.hooks([("hook_patch_embed", count)]):
        fit.add(images, torch.arange(n_pictures, device=device) % 4)
    sites = len(FULL_SITES) * model.cfg.n_layers
    per_token = n_pictures * sites * model.cfg.n_ctx
    what = f"Methods E1, {sites} sites × {model.cfg.n_ctx} tokens, {n_pictures} pictures"
    return what, name, f"{seen[0]} forwards", f"per site and token {per_token:,}", f"{per_token // seen[0]} × fewer"


def side_by_side(
    one: Callable[[], object], other: Callable[[], object], repeats: int, device: str
) -> tuple[float, float]:
    """Median seconds of two things, taken in turns so that a slow moment hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    one(), other()
    for _ in range(repeats):
        for action, into in zip((one, other), times, strict=True):
            before = time.perf_counter()
            action()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            into.append(time.perf_counter() - before)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    run(app)
