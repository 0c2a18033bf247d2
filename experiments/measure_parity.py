"""Measures every plain vision transformer of timm, and small models of other libraries, against their ports.

Each name of timm is built small and randomised (vitlens/parity/reduced.py) and compared in float64, fused and eager: logits,
every block's output, the gradient of the pictures. The models of other libraries are those of vitlens/parity/peers. The
tables are written to vitlens/parity/ and to docs/pages/model.md; with --renew only the page is renewed from them.

    python experiments/measure_parity.py             # about two minutes on two cores
    python experiments/measure_parity.py --families  # other libraries alone, half a minute
    python experiments/measure_parity.py --renew     # only the page's tables, from what was measured
"""

import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from page_table import renew
from tqdm import tqdm

from vitlens.cli import run
from vitlens.files import write_whole
from vitlens.parity import supported_families, supported_models
from vitlens.parity.families import FAMILIES_TABLE, FAMILY_COLUMNS, library_table, measure_family
from vitlens.parity.peers.cases import CASES
from vitlens.parity.reduced import family_names
from vitlens.parity.supported import COLUMNS, TABLE, family_table, measure_name

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ROOT = Path(__file__).parents[1]


@app.command()
def main(
    families_only: Annotated[bool, typer.Option("--families", help="measure models of other libraries alone")] = False,
    renew_only: Annotated[bool, typer.Option("--renew", help="renew the page's tables, measure nothing")] = False,
) -> None:
    """Measure all names and families, write the tables in vitlens/parity and in docs/pages/model.md."""
    if not renew_only:
        warnings.filterwarnings("ignore", message=".*is read as")
        families = [measure_family(case) for case in tqdm(CASES, desc="families")]
        _write(FAMILIES_TABLE, pd.DataFrame(families, columns=FAMILY_COLUMNS))
    if not (renew_only or families_only):
        rows = [measure_name(name) for name in tqdm(family_names(), desc="models")]
        _write(TABLE, pd.DataFrame(rows, columns=COLUMNS))
    for name, table in (
        ("supported models", family_table(supported_models())),
        ("supported families", library_table(supported_families())),
    ):
        renew("model.md", name, table)
        print(table)


def _write(name: str, table: pd.DataFrame) -> None:
    write_whole(ROOT / "vitlens" / "parity" / name, table.to_csv(index=False).encode())


if __name__ == "__main__":
    run(app)
