"""The paper's figures of several runs side by side: one page from the folders that `vitlens reproduce` wrote.

\b
    python experiments/compare_runs.py out/b32 out/b16 out/tiny --out models.html
    python experiments/compare_runs.py "ViT-B/32=out/b32" "ViT-B/16=out/b16" --out models.html
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import plotly.graph_objects as go
import typer
from rich.console import Console

from vitlens import plots
from vitlens.cli import run
from vitlens.errors import InputError
from vitlens.files import check_writable
from vitlens.model.provenance import RANDOM
from vitlens.pages.page import Section, write_page
from vitlens.paper.figures import interventions as paper_interventions
from vitlens.paper.figures import lens as paper_lens
from vitlens.paper.figures import memories as paper_memories
from vitlens.plots.shared.series import ByModel

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
#: Heading, the table it reads, and the figure that it makes of that table.
FIGURES: list[tuple[str, str, Callable[[ByModel], go.Figure]]] = [
    ("Identifiability", "identifiability", paper_lens.identifiability_curves),
    ("Identifiability, token by token", "identifiability", paper_lens.identifiability_boxes),
    ("Change", "change_rate", paper_lens.change_rates),
    ("Change by sublayer", "sublayer_change", paper_lens.sublayer_changes),
    ("Composition", "residual_composition", paper_lens.composition_curves),
    ("Object and context", "context_identifiability", paper_lens.context_boxes),
    ("Memories", "class_value", paper_memories.class_value_boxes),
    ("Memories that fire", "key_value_by_class", paper_memories.agreement_rates),
    ("Removal", "perturbation_curves", plots.perturbation_curves),
    ("Probes", "linear_probe", paper_interventions.probe_curves),
]


@app.command(help=__doc__)
def main(
    runs: Annotated[list[str], typer.Argument(help="folders of runs, or NAME=FOLDER", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write")] = Path("models.html"),
) -> None:
    check_writable(out)
    folders = dict(named(entry) for entry in runs)
    if len(folders) != len(runs):
        raise InputError("two runs have the same name: give them names as NAME=FOLDER")
    sections = []
    for heading, table, figure in FIGURES:
        paths = {name: folder / "tables" / f"{table}.parquet" for name, folder in folders.items()}
        found = {name: pd.read_parquet(path) for name, path in paths.items() if path.exists()}
        if found:
            sections.append(Section(heading, "", [figure(found)]))
    if not sections:
        raise InputError("none of these folders holds a table with a figure: did the runs end?")
    facts = {name: weights_of_run(folder) for name, folder in folders.items()}
    random = ", ".join(name for name, weights in facts.items() if weights.endswith(RANDOM.weights))
    warning = f"random weights, with which nothing was learnt: {random}" if random else None
    write_page(out, "Models side by side", facts, sections, warning=warning)
    Console().print(f"wrote {out}: {len(sections)} figures of {len(folders)} runs", highlight=False, soft_wrap=True)


def weights_of_run(folder: Path) -> str:
    """The model of a run and where its weights came from, as its settings have them."""
    settings = json.loads((folder / "settings.json").read_text())["settings"]
    file = settings.get("checkpoint")
    weights = RANDOM.weights if settings.get("random_weights") else "its own" if file is None else Path(file).name
    return f"{settings['model']}, weights: {weights}"


def named(entry: str) -> tuple[str, Path]:
    """A run's name and folder; its name is by default that of its model."""
    name, _, folder = entry.rpartition("=")
    path = Path(folder)
    if not (path / "settings.json").is_file():
        raise InputError(f"{path} holds no run: there is no settings.json")
    return name or json.loads((path / "settings.json").read_text())["settings"]["model"], path


if __name__ == "__main__":
    run(app)
