"""`vitlens models`: which models are ported."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vitlens.cli.names import model_names
from vitlens.cli.options import Json, TableOut
from vitlens.cli.output import check_out, print_json, say, say_written, terminal
from vitlens.errors import InputError
from vitlens.results.writing import TABLES, write_table

if TYPE_CHECKING:
    import pandas as pd


def models(
    pattern: Annotated[
        str, typer.Argument(help="part of a name, or wildcards as in 'eva02*448'", autocompletion=model_names)
    ] = "*",
    families: Annotated[bool, typer.Option("--families", help="list the models of other libraries instead")] = False,
    out: TableOut = None,
    as_json: Json = False,
) -> None:
    """List the models that vitlens ports: what they are made of, and their measured difference from their library."""
    from vitlens.parity.families import supported_families
    from vitlens.parity.supported import supported_models

    check_out(out, TABLES)
    if families and pattern != "*":
        raise InputError("--families lists all kinds of models of other libraries: leave the pattern out")
    table = supported_families() if families else supported_models(pattern)
    if out is not None:
        write_table(table, out)
    if as_json:
        print_json(table)
        return
    terminal().print(_of_libraries(table) if families else _of_names(table))
    what, library = ("cases", "the library") if families else ("models", "timm")
    say(
        f"{len(table)} {what}; difference: the largest relative one from {library} in float64 (logits, blocks, gradient)"
    )
    if out is not None:
        say_written(out)


def _of_names(table: "pd.DataFrame") -> Table:
    shown = Table("name", "model", "blocks", "tokens", "positions", "pooling", "classes", "difference")
    for row in table.to_dict("records"):
        before = "" if row["prefix_tokens"] == "none" else f"{row['prefix_tokens']} + "
        cells = [row["name"], row["model"], row["blocks"], before + row["patches"], row["positions"], row["pooling"],
                 row["classes"], row["refused"] or row["difference"]]  # fmt: skip
        shown.add_row(*map(str, cells))
    return shown


def _of_libraries(table: "pd.DataFrame") -> Table:
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(*map(str, row))
    return shown
