"""The table of models of other libraries that are ported, and their measured differences (experiments/measure_parity.py)."""

from importlib.resources import files
from typing import Any

import pandas as pd

from vitlens.parity.measure import measure_port
from vitlens.parity.peers.cases import build_case
from vitlens.parity.peers.peer import Case
from vitlens.parity.supported import architecture_facts

FAMILIES_TABLE = "families.csv"
FAMILY_COLUMNS = ["family", "case", "model", "blocks", "prefix_tokens", "positions", "pooling", "output", "difference"]


def supported_families() -> pd.DataFrame:
    """Every kind of model of other libraries that `HookedViT.from_pretrained` opens, and the measured difference from it.

    Returns:
        One row per case: family (library and kind), case (what is special about the small model that is compared), model
        (the library's class), blocks, prefix_tokens, positions, pooling, output (what its outputs mean), difference (the
        largest relative difference from the library in float64 of logits or embedding, of any block's output and of the
        pictures' gradient, fused or eager, of a small model with random parameters).

    Examples:
        >>> import vitlens
        >>> table = vitlens.supported_families()
        >>> print(table.query("family == 'torchvision VisionTransformer'")["case"].to_list())
        ['plain', 'eps 1e-3']
    """
    return pd.read_csv(files("vitlens.parity") / FAMILIES_TABLE, keep_default_na=False)


def measure_family(case: Case) -> dict[str, Any]:
    """One row of the table."""
    module, model, images = build_case(case)
    differences = measure_port(module, model, images, peer=case.peer)
    worst = max(difference for rows in differences.values() for difference in rows.values())
    facts = architecture_facts(model.cfg)
    return {
        "family": case.family,
        "case": case.name,
        "model": type(module).__name__,
        **{column: facts[column] for column in ("blocks", "prefix_tokens", "positions", "pooling")},
        "output": model.cfg.output,
        "difference": f"{worst:.1e}",
    }


def library_table(table: pd.DataFrame) -> str:
    """The table of docs/pages/model.md: one row per family."""
    lines = ["| family | classes that are compared | cases | largest difference |", "|---|---|---|---|"]
    for family, rows in table.groupby("family", sort=False):
        classes = ", ".join(f"`{name}`" for name in dict.fromkeys(rows["model"]))
        worst = pd.to_numeric(rows["difference"]).max()
        lines.append(f"| {family} | {classes} | {'; '.join(rows['case'])} | {worst} |")
    worst = pd.to_numeric(table["difference"]).max()
    lines.append(f"| all {table['family'].nunique()} | | {len(table)} | {worst} |")
    return "\n".join(lines)
