"""Do dictionaries find the features that are there? Every kind that is trained here, on models whose features are planted.

The residual stream of these models is a sparse code that is known (`vitlens.planted.planted_features`): 24 dimensions hold
half as many features, as many, and up to eight times as many (superposition), four of them on in a patch on average.
Dictionaries get twice as many features as there are, and k = 4. Cosine: of each planted direction with the nearest of the
dictionary, mean over features. AUROC: does the activity of that feature say where the planted one is on?

Beside them: the neurons, principal components, k-means, random directions, and the same training on the same model with
random weights. Transcoders are compared with what the MLP of block 1 writes for each feature, cross-layer transcoders with
what those of blocks 1 to 3 write, where no features overlap.

\b
    python experiments/planted_dictionaries.py --out out/planted_dictionaries
    python experiments/planted_dictionaries.py --quick
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import typer
from page_table import markdown, renew
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vitlens.cli import run
from vitlens.errors import InputError
from vitlens.features import CrossLayerTranscoder, SparseAutoencoder, baseline_dictionaries, train
from vitlens.files import make_folder, write_whole
from vitlens.planted import PlantedFeatures, feature_recovery, planted_features

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
KINDS = ("topk", "batchtopk", "jumprelu", "relu")
WIDTH, N_ACTIVE = 24, 4
RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0)
TRANSCODED = {"hook": "blocks.1.hook_resid_mid", "hook_out": "blocks.1.hook_mlp_out"}
BASELINES = {"neurons": "neurons", "pca": "principal components", "kmeans": "k-means", "random": "random directions"}
ON_RANDOM = "{}, random weights"
MATRYOSHKA = "{}, Matryoshka"
TRANSCODER = "{} transcoder"
CROSS_LAYER = "{} cross-layer transcoder"


@dataclass(frozen=True)
class Training:
    """How much is trained."""

    n_images: int
    n_rows: int
    batch_rows: int = 256

    def dictionary(
        self, vit: PlantedFeatures, kind: str, *, nested: bool = False, **place: Any
    ) -> SparseAutoencoder | CrossLayerTranscoder:
        """A dictionary with twice as many features as there are; nested: its first quarter and half are some, too."""
        n_features = 2 * len(vit.directions)
        about = {"matryoshka": (n_features // 4, n_features // 2)} if nested else {}
        trained = train(
            vit.model, vit.pictures(self.n_images, seed=1000).images, **place or {"hook": vit.hook}, kind=kind, k=N_ACTIVE,
            n_features=n_features, tokens="patches", n_rows=self.n_rows, batch_rows=self.batch_rows, progress=False, **about,
        )  # fmt: skip
        (found,) = trained.values()
        return found


@app.command(help=__doc__)
def main(
    kind: Annotated[list[str], typer.Option(help=f"one of {', '.join(KINDS)}; by default all")] = list(KINDS),  # noqa: B006
    ratio: Annotated[list[float], typer.Option(help="features for each dimension")] = list(RATIOS),  # noqa: B006
    seeds: Annotated[int, typer.Option(help="how many models are built, with other directions and pictures")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="one kind, two ratios, a short training")] = False,
    out: Annotated[Path | None, typer.Option(help="also write the numbers and a figure to this folder")] = None,
    renew_page: Annotated[bool, typer.Option("--renew", help="renew the table in docs/pages/planted.md")] = False,
) -> None:
    if seeds < 1:
        raise InputError(f"--seeds is at least 1, not {seeds}")
    if wrong := set(kind) - set(KINDS):
        raise InputError(f"--kind is one of {', '.join(KINDS)}, not {', '.join(sorted(wrong))}")
    if out is not None:
        make_folder(out)
    kinds, ratios = (kind[:1], [1.0, 4.0]) if quick else (kind, sorted(set(ratio)))
    training = Training(64, 50_000) if quick else Training(512, 1_000_000)
    rows = []
    jobs = [(seed, one) for seed in range(seeds) for one in ratios]
    for seed, one in tqdm(jobs, desc="planted models", unit="model", disable=not sys.stderr.isatty()):
        vit = planted_features(round(WIDTH * one), width=WIDTH, n_active=N_ACTIVE, seed=seed)
        for name, found in recoveries(vit, kinds, training, nested=not quick):
            rows.append({"dictionary": name, "ratio": one, "seed": seed} | found)
    frame = pd.DataFrame(rows)
    means = frame.drop(columns="seed").groupby(["dictionary", "ratio"], sort=False).mean().reset_index()
    tables = [cosine_and_auroc(means), auroc_by_activity(means, kinds)]
    for table, title in zip(tables, TITLES, strict=True):
        show(table, title)
    if out is not None:
        write_whole(out / "recovery.csv", frame.to_csv(index=False).encode())
        write_whole(out / "recovery.md", as_markdown(tables).encode())
        write_whole(out / "recovery.html", figure(means).to_html().encode())
    if renew_page:
        renew("planted.md", "planted dictionaries", as_markdown(tables))


def recoveries(
    vit: PlantedFeatures, kinds: list[str], training: Training, *, nested: bool
) -> Iterator[tuple[str, dict[str, float]]]:
    """The scores of all dictionaries of a model, by name."""
    random = replace(vit, model=vit.model.with_fresh_weights(0))
    first = None
    for kind in kinds:
        sae = training.dictionary(vit, kind)
        first = first or sae
        yield kind, scores(vit, sae)
        if nested:
            yield MATRYOSHKA.format(kind), scores(vit, training.dictionary(vit, kind, nested=True))
    for kind in kinds:
        yield ON_RANDOM.format(kind), scores(random, training.dictionary(random, kind))
    images = vit.pictures(training.n_images, seed=1000).images
    for name, sae in baseline_dictionaries(vit.model, images, sae=first, tokens="patches", progress=False).items():
        yield BASELINES[name], scores(vit, sae)
    if vit.written:
        for kind in kinds:
            name = TRANSCODER.format(kind)
            yield name, scores(vit, training.dictionary(vit, kind, **TRANSCODED))
            if nested:
                yield MATRYOSHKA.format(name), scores(vit, training.dictionary(vit, kind, nested=True, **TRANSCODED))
                read = [f"blocks.{block}.hook_resid_mid" for block in vit.written]
                across = training.dictionary(vit, kind, hook=read, cross_layer=True)
                yield CROSS_LAYER.format(kind), scores(vit, across)


def scores(vit: PlantedFeatures, sae: SparseAutoencoder | CrossLayerTranscoder) -> dict[str, float]:
    """Every score of a dictionary."""
    found = feature_recovery(vit, sae)
    names = ("cosine", "found", "one_to_one", "auroc", "precision", "recall", "auroc_any")
    return {name: getattr(found, name) for name in names}


# ---- the tables and the figure -------------------------------------------------------------------------------------------

TITLES = (
    "cosine of planted directions with the nearest one / AUROC of its activity",
    "AUROC of the feature whose activity agrees best, whatever its direction",
)


def cosine_and_auroc(means: pd.DataFrame) -> pd.DataFrame:
    """Both numbers as the text of a cell; a row for each dictionary, a column for each ratio."""
    cells = means["cosine"].map("{:.3f}".format) + " / " + means["auroc"].map("{:.2f}".format)
    return by_ratio(means.assign(cell=cells))


def auroc_by_activity(means: pd.DataFrame, kinds: list[str]) -> pd.DataFrame:
    """The score that looks at no direction, of the planted model and of random weights."""
    shown = [name for kind in kinds for name in (kind, ON_RANDOM.format(kind))]
    return by_ratio(means[means["dictionary"].isin(shown)].assign(cell=means["auroc_any"].map("{:.2f}".format)))


def by_ratio(cells: pd.DataFrame) -> pd.DataFrame:
    names = cells["dictionary"].drop_duplicates()
    return cells.pivot(index="dictionary", columns="ratio", values="cell").reindex(names).fillna("–")


def header(table: pd.DataFrame) -> list[str]:
    return ["dictionary", *[f"{round(WIDTH * ratio)} features ({ratio:g} ×)" for ratio in table.columns]]


def show(table: pd.DataFrame, title: str) -> None:
    rich = Table(*header(table), title=title)
    for name, row in table.iterrows():
        rich.add_row(name, *row)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    console.print(rich)


def as_markdown(tables: list[pd.DataFrame]) -> str:
    parts = [
        f"{title[0].upper()}{title[1:]}:\n\n{markdown(header(table), [[name, *row] for name, row in table.iterrows()])}"
        for table, title in zip(tables, TITLES, strict=True)
    ]
    return "\n\n".join(parts)


def figure(means: pd.DataFrame) -> go.Figure:
    """Cosines over superposition: what was trained on the planted model, and what it is compared with."""
    parts = means["dictionary"].str.partition(", ")
    table = means.assign(kind=parts[0], variant=parts[2].replace("", "plain"))
    table = table[table["kind"].isin([*KINDS, *BASELINES.values()])]
    compared = table["kind"].isin(BASELINES.values()) | (table["variant"] == "random weights")
    table["panel"] = compared.map({False: "trained on the planted model", True: "for comparison"})
    drawn = px.line(
        table, x="ratio", y="cosine", color="kind", line_dash="variant", facet_col="panel", markers=True, log_x=True,
        range_y=[0, 1.02], title="Cosine of planted directions with the nearest of a dictionary", template="simple_white",
        labels={"ratio": "features / dimensions"},
    )  # fmt: skip
    ratios = sorted(table["ratio"].unique())
    drawn.update_xaxes(tickvals=ratios, ticktext=[f"{ratio:g}" for ratio in ratios])
    return drawn.for_each_annotation(lambda note: note.update(text=note.text.removeprefix("panel=")))


if __name__ == "__main__":
    run(app)
