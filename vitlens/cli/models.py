"""`vitlens models`: which timm models are ported."""

from typing import Annotated

import typer
from rich.table import Table

from vitlens.cli.names import model_names
from vitlens.cli.options import Json, TableOut
from vitlens.cli.output import check_out, print_json, say, say_written, terminal
from vitlens.results.writing import TABLES, write_table


def models(
    pattern: Annotated[
        str, typer.Argument(help="part of a name, or wildcards as in 'eva02*448'", autocompletion=model_names)
    ] = "*",
    out: TableOut = None,
    as_json: Json = False,
) -> None:
    """List the timm models that vitlens ports: what they are made of, and their measured difference from timm."""
    from vitlens.parity.supported import supported_models

    check_out(out, TABLES)
    table = supported_models(pattern)
    if out is not None:
        write_table(table, out)
    if as_json:
        print_json(table)
        return
    shown = Table("name", "model", "blocks", "tokens", "positions", "pooling", "classes", "difference")
    for row in table.to_dict("records"):
        before = "" if row["prefix_tokens"] == "none" else f"{row['prefix_tokens']} + "
        cells = [row["name"], row["model"], row["blocks"], before + row["patches"], row["positions"], row["pooling"],
                 row["classes"], row["refused"] or row["difference"]]  # fmt: skip
        shown.add_row(*map(str, cells))
    terminal().print(shown)
    say(f"{len(table)} models; difference: the largest relative one from timm in float64 (logits, blocks, gradient)")
    if out is not None:
        say_written(out)
