"""What watching costs: forwards of a port beside those of the same timm model, run in turn; memory and import time.

\b
    python experiments/benchmarks/forward.py
    python experiments/benchmarks/forward.py --model vit_base_patch16_224 --batch 8 --repeats 9
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import timm
import torch
import typer
from machine import processor
from rich.console import Console
from rich.table import Table

from vitlens import HookedViT

MODELS = ["vit_base_patch16_224", "deit_tiny_patch16_224"]
TARGETS = {"unwatched": 1.03, "residual stream": 1.05, "all but hook_result": 1.25, "everything": 1.25}
STREAM = ["resid_pre", "resid_mid", "resid_post"]
ADOPTION, IMPORT = 1.05, 1.2


def main(
    model: Annotated[list[str] | None, typer.Option(help="timm names")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="pictures per forward")] = None,
    repeats: Annotated[
        int, typer.Option(help="rounds; in each, every kind runs once; the median ratio is printed")
    ] = 7,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    machine = f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}, float32"
    table = Table(
        "model",
        "batch",
        "timm [ms]",
        *TARGETS,
        title=f"Time as a multiple of timm's forward, nothing or some of it cached\n{machine}",
    )
    for name in model or MODELS:
        module = timm.create_model(name, pretrained=False).eval().to(device)
        hooked = HookedViT.from_timm(module)
        for size in batch or [1, 8, 32]:
            seconds, ratios = _measure(module, hooked, size, repeats, device)
            cells = [f"{ratio:.2f}{'' if ratio <= TARGETS[kind] else ' !'}" for kind, ratio in ratios.items()]
            table.add_row(name, str(size), f"{1000 * seconds:.1f}", *cells)
    console = Console(width=120)
    console.print(table)
    console.print(f"targets: {', '.join(f'{kind} {limit}' for kind, limit in TARGETS.items())}; ! marks a miss")
    for name in model or MODELS:
        ratio = _adoption(name)
        console.print(f"peak memory of building and adopting {name}: {ratio:.3f} × building it (target {ADOPTION})")
    ratio, theirs = _import_time(repeats)
    console.print(
        f"import vitlens.HookedViT: {ratio:.2f} × torch, timm and transformer_lens ({theirs:.2f} s; target {IMPORT})"
    )


def _measure(
    module: torch.nn.Module, hooked: HookedViT, size: int, repeats: int, device: str
) -> tuple[float, dict[str, float]]:
    """timm's median seconds, and the median of each kind's ratio to the timm run of the same round."""
    images = torch.randn(size, hooked.cfg.n_channels, *hooked.cfg.image_size, device=device)
    runs: dict[str, Callable[[], object]] = {
        "timm": lambda: module(images),
        "unwatched": lambda: hooked(images),
        "residual stream": lambda: hooked.run_with_cache(images, names_filter=STREAM),
        "all but hook_result": lambda: hooked.run_with_cache(
            images, names_filter=lambda name: not name.endswith("hook_result")
        ),
        "everything": lambda: hooked.run_with_cache(images),
    }
    rounds = []
    with torch.no_grad():
        for run in runs.values():
            run()
        for _ in range(repeats):
            rounds.append({kind: _seconds(run, device) for kind, run in runs.items()})
    ratios = {kind: statistics.median(times[kind] / times["timm"] for times in rounds) for kind in TARGETS}
    return statistics.median(times["timm"] for times in rounds), ratios


def _seconds(run: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _adoption(name: str) -> float:
    """Peak resident memory of a process that builds and adopts a model, over one that builds it; imports are the same."""
    code = (
        "import resource, timm; from vitlens import HookedViT; "
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        f"module = timm.create_model({name!r}, pretrained=False).eval(); "
        "ADOPT; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    plain, adopted = (
        int(subprocess.run([sys.executable, "-c", code.replace("ADOPT", step)], capture_output=True, check=True).stdout)
        for step in ("None", "model = HookedViT.from_timm(module)")
    )
    return adopted / plain


def _import_time(repeats: int) -> tuple[float, float]:
    """Median ratio of the two imports, each in a fresh process, in turn; and theirs in seconds."""
    theirs, ours = [], []
    for _ in range(repeats):
        for times, code in ((theirs, "import torch, timm, transformer_lens"), (ours, "from vitlens import HookedViT")):
            timed = f"import time; start = time.perf_counter(); {code}; print(time.perf_counter() - start)"
            done = subprocess.run([sys.executable, "-c", timed], capture_output=True, check=True)
            times.append(float(done.stdout))
    return statistics.median(b / a for a, b in zip(theirs, ours, strict=True)), statistics.median(theirs)


if __name__ == "__main__":
    typer.run(main)
