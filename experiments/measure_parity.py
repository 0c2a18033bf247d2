"""Measures every plain vision transformer of timm against its port, and writes the table of supported models.

Each name is built small and randomised (vitlens/parity/reduced.py) and compared in float64, fused and eager: logits,
every block's output, the gradient of the pictures. With --renew only the table in
docs/pages/model.md is renewed from the file.

    python experiments/measure_parity.py          # about two minutes on two cores
    python experiments/measure_parity.py --renew  # only the page's table, from what was measured
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from page_table import renew
from tqdm import tqdm

from vitlens.cli import run
from vitlens.files import write_whole
from vitlens.parity import supported_models
from vitlens.parity.reduced import family_names
from vitlens.parity.supported import COLUMNS, TABLE, family_table, measure_name

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ROOT = Path(__file__).parents[1]


@app.command()
def main(
    renew_only: Annotated[bool, typer.Option("--renew", help="renew the page's table, measure nothing")] = False,
) -> None:
    """Measure all names, write vitlens/parity/supported.csv and the table in docs/pages/model.md."""
    if not renew_only:
        names = family_names()
        rows = [measure_name(name) for name in tqdm(names, desc="models")]
        measured = pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False)
        write_whole(ROOT / "vitlens" / "parity" / TABLE, measured.encode())
    table = supported_models()
    renew("model.md", "supported models", family_table(table))
    print(family_table(table))


if __name__ == "__main__":
    run(app)
