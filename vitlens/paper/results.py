"""Writes the results of a run: tables as Parquet, figures as JSON and on one page."""

import pandas as pd
import plotly.graph_objects as go
from rich.console import Console
from rich.table import Table

from vitlens.model.provenance import page_facts
from vitlens.pages.page import Section, write_page
from vitlens.paper.experiment import Context, Experiment, Tables
from vitlens.paper.store import Records, Store

MANY_ROWS = 40


def write_results(store: Store, experiments: list[Experiment], records: Records, context: Context) -> Tables:
    """Writes tables/NAME.parquet, figures/NAME.json, skipped.parquet and report.html; returns the tables."""
    settings, model = context.settings, context.model
    tables: Tables = {}
    sections = []
    for experiment in experiments:
        found = experiment.tables(records)
        figures = experiment.figures(found) | experiment.examples(records)
        for name, table in found.items():
            store.write_table(f"tables/{name}.parquet", table.to_parquet(index=False))
        for name, figure in figures.items():
            store.write_table(f"figures/{name}.json", str(figure.to_json()).encode())
        shown: list[go.Figure | tuple[go.Figure, go.Figure]] = list(figures.values())
        sections.append(Section(experiment.title, experiment.question, shown))
        tables |= found
    skipped = pd.DataFrame([(item.path, item.reason) for item in records.skipped], columns=["path", "reason"])
    store.write_table("skipped.parquet", skipped.to_parquet(index=False))
    facts = page_facts(model) | {
        "pictures": f"{len(records):,} of {settings.data}" + (f", {len(skipped)} unreadable" if len(skipped) else ""),
        "definitions": "docs/pages/methods.md"
        + (", as in the paper's released code where that differs" if settings.paper_compat else ""),
    }
    title = "Class embedding space"
    write_page(store.folder / "report.html", title, facts, sections, warning=model.provenance.warning)
    return tables


def print_tables(tables: Tables, console: Console) -> None:
    """Tables on a terminal; those with a row per class, head or memory stay in their files."""
    for name, table in tables.items():
        if len(table) > MANY_ROWS:
            console.print(f"{name}: {len(table):,} rows, in tables/{name}.parquet", highlight=False)
            continue
        shown = Table(*map(str, table.columns), title=name)
        for row in table.itertuples(index=False):
            shown.add_row(*[_cell(value) for value in row])
        console.print(shown)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)
