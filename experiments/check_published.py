"""Compares a run's tables with the figures that the paper published, line by line.

The published figures are those of published.csv: model by timm's name, how each was read (printed by the authors' notebooks,
or digitised from their figures), and the tolerance. They were computed on the first five validation pictures of ImageNet-S'
910 classes (CIFAR-100's test pictures for its model), scaled without cropping, by the released code:

\b
    vitlens reproduce --model vit_base_patch32_224 --data ImageNetS --per-class 5 --drop-incomplete \\
        --squash --paper-compat --out out/b32
    python experiments/check_published.py out/b32

Exit code 0: all lines agree; 1: some do not; 2: the run is not comparable, and why.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from vitlens.cli import run
from vitlens.data.imagenet_s import is_imagenet_s
from vitlens.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
PUBLISHED = Path(__file__).with_name("published.csv")
#: What a comparable run was asked for.
NEEDED = {"paper_compat": True, "squash": True, "per_class": 5}


@app.command(help=__doc__)
def main(
    folder: Annotated[Path, typer.Argument(help="the --out of a run", show_default=False)],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="compare a run on other pictures or with other settings, for orientation")
    ] = False,
) -> None:
    if not (folder / "settings.json").is_file():
        raise InputError(f"{folder} holds no run: there is no settings.json")
    settings = json.loads((folder / "settings.json").read_text())["settings"]
    published = pd.read_csv(PUBLISHED)
    name = settings["model"].split("/")[-1].split(".")[0]
    known = published[published["model"] == name]
    if known.empty and not anyway:
        raise InputError(f"nothing was published for {name}; there are {', '.join(published['model'].unique())}")
    reasons = differences(settings)
    if reasons and not anyway:
        raise InputError(
            f"{folder} cannot be compared with the paper: {'; '.join(reasons)}. Run it as this script's --help says, "
            "or pass --anyway"
        )
    data = "CIFAR-100" if "cifar" in settings["data"].lower() else "ImageNet-S"
    chosen = known[known["data"] == data]
    if chosen.empty:
        # For orientation: the model that the paper looks at most closely.
        chosen = published[published["model"] == "vit_base_patch32_224"]
    rows = compare(folder, chosen)
    show(rows, reasons)
    if not rows["agrees"].all():
        sys.exit(1)


def differences(settings: dict) -> list[str]:
    """Why a run is not the published one."""
    found = [
        f"{key} is {settings.get(key)!r}, not {value!r}" for key, value in NEEDED.items() if settings.get(key) != value
    ]
    if not is_imagenet_s(settings["data"]) and "cifar" not in settings["data"].lower():
        found.insert(0, f"its pictures are {settings['data']!r}, not ImageNet-S or CIFAR-100")
    if settings.get("n_images") is not None:
        found.append(f"it saw the first {settings['limit']} pictures only")
    if settings.get("random_weights"):
        found.append("its weights are random")
    return found


def compare(folder: Path, published: pd.DataFrame) -> pd.DataFrame:
    """One row per published figure that the run has a table for."""
    tables = {path.stem: pd.read_parquet(path) for path in (folder / "tables").glob("*.parquet")}
    rows = []
    for line in published.to_dict("records"):
        table = tables.get(line["table"])
        if table is None or line["column"] not in table:
            continue
        measured = table.query(line["where"])[line["column"]]
        if len(measured):
            value = float(measured.iloc[0])
            rows.append({**line, "measured": value, "agrees": abs(value - line["published"]) <= line["tolerance"]})
    if not rows:
        raise InputError(f"{folder} has no table with a published figure: did the run end?")
    return pd.DataFrame(rows)


def show(rows: pd.DataFrame, reasons: list[str]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=170)
    shown = Table("model", "table", "where", "column", "published", "measured", "tolerance", "read off", "")
    for row in rows.to_dict("records"):
        shown.add_row(
            row["model"], row["table"], row["where"], row["column"], f"{row['published']:.4g}", f"{row['measured']:.4g}",
            f"± {row['tolerance']:g}", row["source"], "agrees" if row["agrees"] else "DIFFERS",
        )  # fmt: skip
    console.print(shown)
    for reason in reasons:
        console.print(f"not the published run: {reason}", highlight=False)
    console.print(f"{int(rows['agrees'].sum())} of {len(rows)} figures agree", highlight=False)


if __name__ == "__main__":
    run(app)
