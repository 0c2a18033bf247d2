"""How much of the activations do dictionaries explain for their number of active features? The frontier, beside baselines.

Every kind that vitlens trains, at several k, all from one stream of activations. Beside them: the first k principal
components; the k neurons and the k random directions that are largest in a row; the nearest mean of k-means; the first kind
on the model with random weights. Measured on pictures that are held out. A number is worth what the random model's number
leaves of it: a dictionary can reconstruct activations well that mean nothing.

\b
    python experiments/dictionary_frontier.py
    python experiments/dictionary_frontier.py --model vit_tiny_patch16_224 --checkpoint FILE --data FOLDER --hook resid_post5
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from jaxtyping import Float
from page_table import markdown
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from vitlens.cli import DEMO, ModelOptions, run, with_model
from vitlens.data import open_pictures
from vitlens.data.picture_sets import PictureSet
from vitlens.features import SparseAutoencoder, baseline_dictionaries, evaluate_sae
from vitlens.features.places import HookPlace, place_of
from vitlens.features.training.fills import Fills, Position
from vitlens.features.training.learner import Learner
from vitlens.features.training.settings import KINDS, TrainingSettings
from vitlens.files import make_folder, write_whole
from vitlens.model import HookedViT
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.plots import dictionary_frontier
from vitlens.workers import Workers

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
MEASURES = ("explained_variance", "l0", "alive", "loss_recovered_mean", "agreement_sae")
#: "alive" is of the training pictures; everything else of those that are held out.
TRAINED, RANDOM_MODEL, PCA = "trained model", "random model", "PCA"
BASELINES = {"neurons": "neurons", "kmeans": "k-means", "random": "random directions"}


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    data: Annotated[
        str, typer.Option(help='a folder of pictures, a Parquet file, a name on the hub, or "demo"')
    ] = DEMO,
    split: Annotated[str | None, typer.Option(help="which split of it")] = None,
    limit: Annotated[int | None, typer.Option(help="only this many pictures, the first ones")] = None,
    held_out: Annotated[float, typer.Option(help="share of the pictures that is held out")] = 0.2,
    hook: Annotated[list[str] | None, typer.Option(help="a hook point; several times [default: resid_post3]")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="a kind; several times [default: all]")] = None,
    k: Annotated[list[int] | None, typer.Option(help="active features; several times [default: 4, 8, 16, 32]")] = None,
    expansion: Annotated[float, typer.Option(help="number of features per dimension of the activation")] = 8,
    n_rows: Annotated[int, typer.Option(help="rows (tokens) of each training")] = 500_000,
    lr: Annotated[float | None, typer.Option(help="learning rate [default: as vitlens.features.train]")] = None,
    random_model: Annotated[bool, typer.Option(help="the first kind on the model with random weights too")] = True,
    seed: Annotated[int, typer.Option(help="of the weights, the order of rows and the pictures held out")] = 0,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for table and figure")] = Path("out/frontier"),
) -> None:
    hooked = model.load()
    pictures = open_pictures(data, hooked.class_names, hooked.cfg.n_classes, split=split, n_images=limit)
    training, testing = in_two(pictures, held_out, seed)
    hooks, ks = hook or ["resid_post3"], k or [4, 8, 16, 32]
    jobs = [
        TrainingSettings(kind=name, k=number, expansion=expansion, n_rows=n_rows, lr=lr, seed=seed)
        for name, number in product(kind or KINDS, ks)
    ]
    models = {TRAINED: hooked}
    if random_model:
        models[RANDOM_MODEL] = hooked.with_fresh_weights(seed)
    rows = []
    for name, each in models.items():
        places = [place_of(each, place) for place in hooks]
        stream = stream_of(each, training, places, jobs[0])
        # Of the random model the first kind is enough to see what training leaves of its numbers.
        chosen = jobs if name == TRAINED else jobs[: len(ks)]
        found = [*trained(stream, places, chosen), *components(stream, places, ks)]
        if name == TRAINED:
            first = [(facts, sae) for facts, sae in found if facts["kind"] == jobs[0].kind]
            found += list(baselines(each, training, first, seed))
        for facts, sae in tqdm(found, desc=f"figures of the {name}", disable=not sys.stderr.isatty()):
            measures = evaluate_sae(
                each, testing, sae=sae, metrics=("reconstruction", "downstream"), baselines=(), progress=False
            )
            shown = {measure: measures[measure] for measure in MEASURES if measure in measures.axes["measure"]}
            of = {
                "hook": sae.hook,
                "model": hooked.cfg.model_name,
                "baseline": name == RANDOM_MODEL or facts["kind"] not in KINDS,
            }
            called = facts["kind"] if name == TRAINED else f"{facts['kind']}, {name}"
            rows.append({"dictionary": called, **of, **facts, **shown})
    table = pd.DataFrame(rows)
    make_folder(out)
    write_whole(out / "frontier.csv", table.to_csv(index=False).encode())
    write_whole(out / "frontier.md", as_markdown(table).encode())
    dictionary_frontier(table).write_html(out / "frontier.html", include_plotlyjs=True)
    show(table)
    print(f"wrote frontier.csv, frontier.md and frontier.html to {out}")


def in_two(pictures: PictureSet, share: float, seed: int) -> tuple[PictureSet, PictureSet]:
    """The pictures to train on, and those that are held out."""
    assert pictures.n is not None
    order = np.random.default_rng(seed).permutation(pictures.n)
    n = max(1, round(share * pictures.n))
    return tuple(
        replace(pictures, table=pictures.table.select(np.sort(some)), n=len(some)) for some in (order[n:], order[:n])
    )


def stream_of(model: HookedViT, pictures: PictureSet, places: Sequence[HookPlace], settings: TrainingSettings) -> Fills:
    """The activations of all places, from the same forwards."""
    return Fills(
        model, PictureBatches(model, pictures, None), places, "all", buffer_rows=settings.buffer_rows,
        batch_rows=settings.batch_rows, precision=settings.precision, seed=settings.seed,
        workers=Workers(str(model.device)),
    )  # fmt: skip


def trained(
    stream: Fills, places: Sequence[HookPlace], jobs: Sequence[TrainingSettings]
) -> Iterator[tuple[dict[str, Any], SparseAutoencoder]]:
    """A dictionary at each place for each of the settings; all see the same rows in the same order."""
    learners: list[Learner] = []
    n_steps = jobs[0].n_steps
    with tqdm(total=n_steps, desc=f"training {len(places) * len(jobs)} dictionaries", unit="step") as bar:
        for fill in stream.begin(Position()):
            if not learners:
                learners = [
                    Learner(place, place, fill.rows, settings, stream.workers, settings.seed)
                    for place in places
                    for settings in jobs
                ]
            for i in range(min(fill.n_batches, n_steps - bar.n)):
                for learner in learners:
                    learner.step(fill.batch(i))
                bar.update()
            if bar.n == n_steps:
                break
    for learner in learners:
        sae = learner.finished()
        settings = learner.settings
        yield {"kind": settings.kind, "k": settings.k, "alive": alive(sae, fill.rows[learner.source.name])}, sae


@torch.no_grad()
def alive(sae: SparseAutoencoder, rows: Float[Tensor, "row d"]) -> float:
    """The share of features that are active on any of these rows."""
    found = [(sae.encode(some) > 0).any(dim=0) for some in rows.split(4096)]
    return float(torch.stack(found).any(dim=0).double().mean())


def components(
    stream: Fills, places: Sequence[HookPlace], numbers: Sequence[int]
) -> Iterator[tuple[dict[str, Any], SparseAutoencoder]]:
    """The first principal components of the rows at each place, as a linear dictionary without any sparsity."""
    rows = next(stream.begin(Position())).rows
    for place in places:
        x = rows[place.name].double()
        directions = torch.linalg.eigh(torch.cov(x.T)).eigenvectors.flip(dims=[1])
        for n in numbers:
            W_dec = directions[:, :n].T.float()
            yield (
                {"kind": PCA, "k": n, "alive": 1.0},
                SparseAutoencoder.from_arrays(
                    W_dec.T, None, W_dec, x.mean(dim=0).float(), activation="linear", centred=True, hook=place.name
                ),
            )


def baselines(
    model: HookedViT, pictures: PictureSet, beside: Sequence[tuple[dict[str, Any], SparseAutoencoder]], seed: int
) -> Iterator[tuple[dict[str, Any], SparseAutoencoder]]:
    """The baselines with as many active features as each of these dictionaries; k-means, which has one, once a place."""
    with_kmeans = set()
    for facts, sae in beside:
        chosen = [name for name in BASELINES if name != "kmeans" or sae.hook not in with_kmeans]
        with_kmeans.add(sae.hook)
        found = baseline_dictionaries(model, pictures, sae=sae, baselines=chosen, seed=seed, progress=False)
        for name, each in found.items():
            yield {"kind": BASELINES[name], "k": facts["k"], "alive": 1.0}, each


def as_markdown(table: pd.DataFrame) -> str:
    """A table for each hook point, with a column for each k: explained variance / L0 / loss recovered / share alive."""

    def cell(row: Any) -> str:
        shown = [f"{row['explained_variance']:.3f}", f"{row['l0']:.1f}"]
        recovered = row.get("loss_recovered_mean", float("nan"))
        shown += [f"{recovered:.3f}" if recovered == recovered else "–"]
        return " / ".join(shown if row["baseline"] else [*shown, f"{row['alive']:.0%}"])

    tables = []
    for hook, some in table.groupby("hook", sort=False):
        cells = {(row["dictionary"], row["k"]): cell(row) for _, row in some.iterrows()}
        names, ks = (list(dict.fromkeys(some[name])) for name in ("dictionary", "k"))
        lines = [[name, *(cells.get((name, k), "–") for k in ks)] for name in names]
        tables.append(f"{hook}:\n\n{markdown(['dictionary', *(f'k {k}' for k in ks)], lines)}")
    return "\n\n".join(tables)


def show(table: pd.DataFrame) -> None:
    for hook, some in table.groupby("hook", sort=False):
        shown = Table("dictionary", "k", *MEASURES, title=hook)
        for row in some.to_dict("records"):
            numbers = [f"{row[name]:.3f}" if name in row and row[name] == row[name] else "–" for name in MEASURES]
            shown.add_row(row["dictionary"], str(row["k"]), *numbers)
        Console(width=120).print(shown)


if __name__ == "__main__":
    run(app)
