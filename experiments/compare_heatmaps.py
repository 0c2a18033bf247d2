"""Which heatmaps are right? Every method scored by every metric: the table method × metric, with intervals over pictures.

The demo's pictures, your own, ImageNet-S, or planted models, in which it is known which patches the class comes from. Each
chunk of pictures is kept in --out: the same command goes on where it was stopped.

\b
    python experiments/compare_heatmaps.py
    python experiments/compare_heatmaps.py --planted
    python experiments/compare_heatmaps.py --model vit_tiny_patch16_224 --checkpoint FILE --data FOLDER --metric deletion …
    python experiments/compare_heatmaps.py --model vit_base_patch16_224 --data ImageNetS919 --per-class 1 --classes label
"""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from page_table import markdown, renew
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from vitlens import __version__, evaluate_heatmaps
from vitlens.cli import DEMO, ModelOptions, run, with_model
from vitlens.data import open_pictures
from vitlens.data.picture_list import list_pictures
from vitlens.faithfulness import HeatmapEvaluation, evaluate_heatmaps_over_data
from vitlens.faithfulness.metrics import METRICS, find_metrics
from vitlens.faithfulness.segmentation import DEFINITION
from vitlens.files import write_whole
from vitlens.heatmaps.registry import METHODS
from vitlens.heatmaps.run import find_method
from vitlens.model import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.pages.page import Section, write_page
from vitlens.paper.run_facts import model_facts
from vitlens.paper.store import Store
from vitlens.planted import PLANTED, planted
from vitlens.plots import faithfulness_curves, faithfulness_table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None)
#: Baselines are added to every table by `faithfulness` itself.
BASELINES = ("random_map", "centre_prior", "raw_attention")
EVERY_METHOD = [name for name in METHODS if name not in BASELINES]
DEFAULT_METRICS = [
    *("deletion", "insertion", "negative", "positive", "road", "sensitivity_n", "infidelity", "saco"),
    *("randomisation", "pointing_game"),
]


@app.command(help=__doc__)
@with_model
def main(
    model: ModelOptions,
    data: Annotated[
        str, typer.Option(help='a folder of pictures, a Parquet file, a name on the hub, ImageNet-S, or "demo"')
    ] = DEMO,
    split: Annotated[str | None, typer.Option(help="which split of it")] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of object masks, named as the pictures")] = None,
    limit: Annotated[int | None, typer.Option(help="only this many pictures, the first ones")] = None,
    per_class: Annotated[int | None, typer.Option(help="only this many pictures of each class, the first ones")] = None,
    planted_models: Annotated[
        bool, typer.Option("--planted", help="the planted models instead: AUROC of the patches that they read")
    ] = False,
    method: Annotated[list[str] | None, typer.Option(help="a heatmap method; several times [default: all]")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="a metric; several times [default: those that can be had]")
    ] = None,
    classes: Annotated[str, typer.Option(help="heatmaps of the predicted class or of the label")] = "predicted",
    n_steps: Annotated[int, typer.Option(help="steps of each curve")] = 14,
    replacement: Annotated[str, typer.Option(help="what replaces pixels: blur, mean, zero, black")] = "blur",
    n_draws: Annotated[int, typer.Option(help="random maps for each picture; builds of each planted model")] = 3,
    chunk_size: Annotated[int, typer.Option(help="pictures worked on together")] = 25,
    out: Annotated[Path, typer.Option("-o", "--out", help="folder for scores, table and page")] = Path("out/heatmaps"),
    renew_page: Annotated[bool, typer.Option("--renew", help="renew the table in docs/pages/faithfulness.md")] = False,
) -> None:
    methods = [find_method(name).name for name in method] if method else EVERY_METHOD
    if planted_models:
        table = planted_table(methods, n_draws, 24 if limit is None else limit)
        show(table, "AUROC of the patches that planted models read")
        if renew_page:
            renew("faithfulness.md", "planted heatmaps", as_markdown(table))
        return
    hooked = model.load()
    pictures = open_pictures(
        data, hooked.class_names, hooked.cfg.n_classes, split=split, n_images=limit, per_class=per_class, masks=masks
    )
    metrics = metric or [
        name for name in DEFAULT_METRICS if pictures.has_masks or not METRICS[name].needs_masks
    ]  # fmt: skip
    find_metrics(metrics, pictures.has_masks)
    settings = {"classes": classes, "n_steps": n_steps, "replacement": replacement, "n_draws": n_draws}
    settings |= {"chunk_size": chunk_size}
    given = {
        "timm": sorted(model.timm) if model.timm else None,
        "data": data,
        "split": split,
        "masks": str(masks),
        "limit": limit,
        "per_class": per_class,
    }
    store = Store(out)
    description = {
        "settings": settings | given | {"methods": methods, "metrics": metrics},
        **model_facts(hooked),
        "experiments": ["compare_heatmaps"],
        "versions": {"vitlens": __version__},
        "threads": torch.get_num_threads(),
    }
    watched = sys.stderr.isatty()
    try:
        with store.opened(description, lambda: list_pictures(pictures, progress=watched)):
            scores = evaluate_heatmaps_over_data(
                hooked,
                pictures,
                methods=methods,
                folder=store.records,
                metrics=metrics,
                progress=watched,
                **settings,
            )
            table = cells_of(scores)
            protocol = f"{scores.faithfulness.protocol()}, {n_steps} steps"
            write_whole(out / "table.csv", table.to_csv().encode())
            write_whole(out / "table.md", f"{as_markdown(table)}\n\n{protocol}\n".encode())
            write_scores_page(out / "report.html", hooked, scores, table, protocol)
    except KeyboardInterrupt:
        print(f"interrupted: {out} holds what was computed; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    show(table, protocol)
    for item in scores.skipped[:10]:
        print(f"skipped {item.path}: {item.reason}")
    print(f"wrote table.md, table.csv and report.html to {out}")
    if renew_page:
        renew("faithfulness.md", "compared heatmaps", as_markdown(table))


def cells_of(scores: HeatmapEvaluation) -> pd.DataFrame:
    """Methods × metrics, as "mean [low, high]"; the metric's name with the direction that is better."""
    tables = {METRICS[name].title: scores.faithfulness.summary()[name] for name in scores.faithfulness.axes["metric"]}
    if scores.segmentation is not None:
        found = scores.segmentation.summary()
        tables |= {f"{name} ↑": found[name] for name in found.columns.levels[0]}
    rows = list(tables[next(reversed(tables))].index)
    return pd.DataFrame(
        {title: [cell(numbers, name) for name in rows] for title, numbers in tables.items()},
        index=pd.Index([name.replace("_", " ") for name in rows], name="method"),
    )


def cell(numbers: pd.DataFrame, method: str) -> str:
    if method not in numbers.index or np.isnan(numbers.loc[method, "mean"]):
        return "–"
    mean, low, high = numbers.loc[method]
    return f"{mean:.3f} [{low:.2f}, {high:.2f}]".replace("-", "−")


def planted_table(methods: list[str], builds: int, n_pictures: int) -> pd.DataFrame:
    """The AUROC of the patches that the mechanism reads, among all patches, mean over pictures and builds."""
    rows = []
    jobs = [(name, seed) for name in PLANTED for seed in range(builds)]
    for name, seed in tqdm(jobs, desc="planted models", unit="model", disable=not sys.stderr.isatty()):
        vit = planted(name, seed=seed)
        pictures = vit.pictures(n_pictures, seed=1000 + seed)
        down, across = vit.model.cfg.patch_size
        truth = pictures.patches.unflatten(1, vit.model.cfg.grid_size)
        pixels = truth.repeat_interleave(down, dim=1).repeat_interleave(across, dim=2)
        found = evaluate_heatmaps(
            vit.model,
            pictures.images,
            pictures.labels,
            heatmaps=methods,
            metrics="patch_auroc",
            masks=pixels,
            progress=False,
        )
        means = found.values[:, 0].nanmean(dim=1).tolist()
        rows += [
            {"method": method.replace("_", " "), "model": name.replace("_", " "), "auroc": value}
            for method, value in zip(found.axes["method"], means, strict=True)
        ]
    table = pd.DataFrame(rows).pivot_table(index="method", columns="model", values="auroc", sort=False)
    return table.map(lambda value: f"{value:.3f}")


def write_scores_page(
    path: Path, model: HookedViT, scores: HeatmapEvaluation, table: pd.DataFrame, protocol: str
) -> None:
    result = scores.faithfulness
    definitions = "; ".join(f"{name} {definition}" for name, definition in result.definitions().items())
    figures = [faithfulness_table(result), *([faithfulness_curves(result)] if result.curve_names else [])]
    facts = page_facts(model) | {"protocol": protocol}
    if scores.segmentation is not None:
        facts |= {
            f"segmentation by {method}": ", ".join(f"{name} {row[name]}" for name in table.columns[-4:])
            for method, row in table.iterrows()
        } | {"segmentation": DEFINITION}
    sections = [Section("Scores", definitions, figures)]
    write_page(path, "Which heatmaps are right", facts, sections, warning=model.provenance.warning)


def show(table: pd.DataFrame, title: str) -> None:
    shown = Table("method", *table.columns, title=title)
    for name, row in table.iterrows():
        shown.add_row(str(name), *row)
    console = Console() if sys.stdout.isatty() else Console(width=60 + 24 * len(table.columns))
    console.print(shown)


def as_markdown(table: pd.DataFrame) -> str:
    return markdown(["method", *table.columns], [[str(name), *row] for name, row in table.iterrows()])


if __name__ == "__main__":
    run(app)
