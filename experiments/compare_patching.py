"""How good are the gradients' estimates? Attribution patching beside the exact sweep, site by site and edge by edge.

For every site the effects of all cells are computed exactly, by as many patched runs, and estimated, by two forwards and a
few backwards; the table gives their correlations, the time of both, and the cells where they disagree most. The site
"circuits" compares what is made of edges: how many are needed if they are tested one by one, and how many if they are
ranked by their scores, for a circuit as faithful.

\b
    python experiments/compare_patching.py
    python experiments/compare_patching.py --model vit_tiny_patch16_224 --checkpoint FILE --pictures FOLDER --pairs 2
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor

from vitlens.circuits import evaluate_circuits, prune_circuit
from vitlens.circuits.circuit import CIRCUIT_METHODS
from vitlens.cli import ModelOptions, run, with_model
from vitlens.demo import load_demo_pictures
from vitlens.errors import InputError
from vitlens.files import check_writable, write_whole
from vitlens.model import Graph, HookedViT
from vitlens.patching import (
    Patching,
    activation_patching,
    attribution_patching,
    edge_attribution_patching,
    path_patching,
)
from vitlens.patching.edges import EDGE_METHODS
from vitlens.patching.gradients import ATTRIBUTION_METHODS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
SITES = ("resid_pre", "mlp_out", "z", "q", "k", "v")
EDGES, CIRCUITS = "edges", "circuits"
ALL = (*SITES, EDGES, CIRCUITS)
#: Sizes at which circuits from scores are tried.
N_SIZES = 24


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    pictures: Annotated[
        Path | None, typer.Option(help="folder of pictures, by name clean and corrupted in turn [default: the demo's]")
    ] = None,
    pairs: Annotated[int, typer.Option(help="how many pairs")] = 2,
    sites: Annotated[list[str], typer.Option("--site", help=f"{', '.join(ALL)}")] = [*ALL],  # noqa: B006
    steps: Annotated[int, typer.Option(help="steps of the integrated methods")] = 5,
    max_change: Annotated[list[float], typer.Option(help="of prune_circuit, for each circuit")] = [0.05, 0.02, 0.01],  # noqa: B006
    worst: Annotated[int, typer.Option(help="how many disagreements to list for each site")] = 2,
    out: Annotated[Path | None, typer.Option(help="also write every cell to this Parquet file")] = None,
) -> None:
    unknown = [site for site in sites if site not in ALL]
    if unknown:
        raise InputError(f"--site is one of {', '.join(ALL)}, not {unknown[0]!r}")
    if out is not None:
        check_writable(out)
    hooked = model.load()
    clean, corrupted, about = load_pairs(hooked, model.is_demo, pictures, pairs)
    quiet = {"progress": sys.stderr.isatty(), **about}
    table = Table(title=f"{hooked.cfg.model_name}, {pairs} pairs: estimates beside the exact effects")
    for column in ("site", "cells", "method", "Pearson", "Spearman", "largest error", "exact, s", "estimate, s"):
        table.add_column(column)
    console = Console() if sys.stdout.isatty() else Console(width=130)
    notes, cells = [], []
    for site in [site for site in sites if site != CIRCUITS]:
        exact, estimates, methods = functions(hooked, clean, corrupted, site, steps, quiet)
        reference, slow = timed(exact)
        correlations = {}
        for method in methods:
            estimate, fast = timed(partial(estimates, method))
            row = compare(hooked, reference, estimate).assign(site=site, method=method)
            cells.append(row)
            pearson, spearman = (f(row["exact"], row["estimate"]).statistic for f in (stats.pearsonr, stats.spearmanr))
            correlations[method] = pearson
            table.add_row(
                site, str(len(row)), method, f"{pearson:.3f}", f"{spearman:.3f}", f"{row['error'].abs().max():.3f}",
                f"{slow:.1f}", f"{fast:.1f}",
            )  # fmt: skip
            for _, cell in row.reindex(row["error"].abs().sort_values(ascending=False).index)[:worst].iterrows():
                notes.append(
                    f"{site}, {method}: {cell['cell']} is {cell['exact']:+.3f}, estimated {cell['estimate']:+.3f}"
                )
        console.print(verdict(site, correlations), highlight=False)
    if cells:
        console.print(table)
        console.print("Worst disagreements:")
    for note in notes:
        console.print(f"  {note}", highlight=False, markup=False)
    if CIRCUITS in sites:
        console.print(table_of_circuits(circuits(hooked, clean, corrupted, max_change, steps, quiet)))
    if out is not None and cells:
        write_whole(out, pd.concat(cells).to_parquet(index=False))
        console.print(f"wrote {out}", highlight=False, markup=False, soft_wrap=True)


def verdict(site: str, correlations: dict[str, float]) -> str:
    """Which estimate is nearest to the exact effects, and whether relevance is nearer than the gradient."""
    best = max(correlations, key=lambda method: correlations[method])
    gradient, relevance = correlations["gradient"], correlations["relevance"]
    nearer = "nearer than" if relevance > gradient else "not as near as"
    return (
        f"{site}: relevance ({relevance:.3f}) is {nearer} the gradient ({gradient:.3f}) to the exact effects, and "
        f"nearest is {best} ({correlations[best]:.3f}), by Pearson's correlation"
    )


def circuits(
    model: HookedViT, clean: Tensor, corrupted: Tensor, max_changes: list[float], steps: int, about: dict[str, Any]
) -> pd.DataFrame:
    """For each circuit that testing finds, the smallest ones from scores that are at least as near to faithfulness 1."""
    pair = (model, clean, corrupted)
    n_all = int(Graph(model).exists.sum())
    sizes = sorted({round(size) for size in np.geomspace(4, n_all, N_SIZES)})
    curves = {}
    for by in EDGE_METHODS:
        scores = edge_attribution_patching(*pair, method=by, n_steps=steps, **about)
        for method in CIRCUIT_METHODS:
            curves[method, by] = evaluate_circuits(*pair, scores=scores, method=method, sizes=sizes, n_draws=0, **about)
    rows = []
    for max_change in max_changes:
        try:
            found = prune_circuit(*pair, max_change=max_change, **about)
        except InputError as error:
            if "no edge is needed" not in str(error):
                raise
            # One by one, all edges can go where each has many ways round it: a row says that nothing is left.
            rows.append(("sequential", "tests", max_change, 0, 0.0))
            continue
        reached = evaluate_circuits(*pair, scores=found, n_draws=0, **about).faithfulness().item()
        rows.append(("sequential", "tests", max_change, len(found), reached))
        for (method, by), curve in curves.items():
            shares = curve.faithfulness().tolist()
            # Of all edges, the last size, the faithfulness is 1 but for rounding.
            place = next(
                i for i, share in enumerate(shares) if abs(share - 1) <= abs(reached - 1) or i == len(sizes) - 1
            )
            rows.append((method, by, max_change, curve.n_edges["circuit"][place], shares[place]))
    return pd.DataFrame(rows, columns=["method", "by", "max_change", "edges", "faithfulness"])


def table_of_circuits(found: pd.DataFrame) -> Table:
    table = Table(title="circuits: the edges that each way needs to be as near to faithfulness 1 as sequential pruning")
    for column in ("max_change", "method", "edges ranked by", "edges kept", "faithfulness"):
        table.add_column(column)
    for row in found.itertuples():
        table.add_row(f"{row.max_change:g}", row.method, row.by, str(row.edges), f"{row.faithfulness:.3f}")
    return table


def load_pairs(
    model: HookedViT, demo: bool, folder: Path | None, n_pairs: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Clean and corrupted pictures, and the classes that the metric is about."""
    if n_pairs < 1:
        raise InputError(f"--pairs is at least 1, not {n_pairs}")
    if folder is not None:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        files = sorted(path for path in folder.iterdir() if path.is_file())
        if len(files) < 2 * n_pairs:
            raise InputError(f"{n_pairs} pairs need {2 * n_pairs} pictures, and {folder} holds {len(files)}")
        images = model.to_images(files[: 2 * n_pairs])
        return images[0::2], images[1::2], {}
    if not demo:
        raise InputError("--model needs --pictures, a folder (only the demo brings its own)")
    pictures = load_demo_pictures(model)
    if 2 * n_pairs > len(pictures.images):
        raise InputError(f"the demo has {len(pictures.images) // 2} pairs, not {n_pairs}")
    agreeing, conflicting = slice(0, 2 * n_pairs, 2), slice(1, 2 * n_pairs, 2)
    about = {"classes": pictures.labels[agreeing], "baseline_classes": pictures.contexts[conflicting]}
    return pictures.images[agreeing], pictures.images[conflicting], about


def functions(
    model: HookedViT, clean: Tensor, corrupted: Tensor, site: str, steps: int, about: dict[str, Any]
) -> tuple[Callable[[], Patching], Callable[[str], Patching], tuple[str, ...]]:
    """The exact sweep of a site, its estimate by a method, and which methods there are."""
    pair = (model, clean, corrupted)
    if site == EDGES:
        return (
            lambda: path_patching(*pair, receivers=None, **about),
            lambda method: edge_attribution_patching(*pair, method=method, n_steps=steps, **about),
            EDGE_METHODS,
        )
    methods = tuple(method for method in ATTRIBUTION_METHODS if method != "atp_star" or site in ("q", "k"))
    return (
        lambda: activation_patching(*pair, sites=site, **about),
        lambda method: attribution_patching(*pair, sites=site, method=method, n_steps=steps, **about),
        methods,
    )


def timed(function: Callable[[], Patching]) -> tuple[Patching, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def compare(model: HookedViT, exact: Patching, estimate: Patching) -> pd.DataFrame:
    """One row per cell that exists: the effect over pictures, exact and estimated."""
    axes = [axis for axis in exact.axes if axis != "image"]
    joint = "->" if axes[0] == "sender" else " "
    named = [[f"block {label}" if axis == "block" else label for label in exact.axes[axis]] for axis in axes]
    cells = [joint.join(cell) for cell in product(*named)]
    frame = pd.DataFrame({"cell": cells, "exact": exact.effect().flatten(), "estimate": estimate.effect().flatten()})
    if axes[0] == "sender":
        frame = frame[Graph(model).exists.flatten().numpy()]
    return frame.assign(error=frame["estimate"] - frame["exact"])


if __name__ == "__main__":
    run(app)
