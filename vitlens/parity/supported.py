"""The table of ported timm names and their measured differences from timm (by experiments/measure_parity.py)."""

import re
from fnmatch import fnmatch
from importlib.resources import files
from typing import Any

import pandas as pd

from vitlens.arguments import checked
from vitlens.errors import InputError, nearest
from vitlens.model.checkpoints.timm_models import build_without_values
from vitlens.model.config import HookedViTConfig
from vitlens.model.hooked_vit import HookedViT
from vitlens.parity.measure import measure_port
from vitlens.parity.reduced import build_reduced, family_names, reduced_images

TABLE = "supported.csv"
COLUMNS = [
    "name", "file", "model", "blocks", "norm", "mlp", "heads", "depth", "d_model", "prefix_tokens", "patches",
    "positions", "pooling", "classes", "difference", "refused",
]  # fmt: skip


@checked
def supported_models(pattern: str = "*") -> pd.DataFrame:
    """Every plain vision transformer of timm's registry: what it is made of, and the measured difference from timm.

    Args:
        pattern: shell wildcards on names; a bare word means names that contain it.

    Returns:
        One row per name: file (of timm), model (class), blocks (pre-norm, post-norm, parallel), norm, mlp, heads, depth,
        d_model, prefix_tokens, patches, positions, pooling, classes (0: no classifier), difference (the largest relative
        difference from timm in float64 of logits, of any block's output and of the pictures' gradient, fused or eager, of
        a small randomised model), refused (the reason, where it is not ported).

    Raises:
        InputError: no name matches.

    Examples:
        >>> import vitlens
        >>> table = vitlens.supported_models("*small*reg4_dinov2")
        >>> print(table[["name", "prefix_tokens", "patches"]].to_string(index=False))
        name                          prefix_tokens        patches
        vit_small_patch14_reg4_dinov2 class + 4 registers  37 × 37
    """
    table = pd.read_csv(files("vitlens.parity") / TABLE, keep_default_na=False)
    wildcard = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    chosen = table[[fnmatch(name, wildcard) for name in table["name"]]]
    if chosen.empty:
        near = nearest(re.sub(r"[*?]", "", pattern), list(table["name"]))
        raise InputError(f"no supported model matches {pattern!r}; the nearest names are {near}")
    return chosen.reset_index(drop=True)


def measure_name(name: str) -> dict[str, Any]:
    """One row of the table: the architecture at its full size, the difference of a small randomised one."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {"name": name, "file": family_names()[name]}
    full = build_without_values(name, {}).eval()
    row["model"] = type(full).__name__
    try:
        row |= architecture_facts(HookedViT.from_timm(full).cfg)
        module = build_reduced(name)
        model = HookedViT.from_timm(module)
    except InputError as refusal:
        return row | {"refused": str(refusal)}
    differences = measure_port(module, model, reduced_images(model.cfg))
    worst = max(difference for rows in differences.values() for difference in rows.values())
    return row | {"difference": f"{worst:.1e}"}


def architecture_facts(cfg: HookedViTConfig) -> dict[str, Any]:
    """What an architecture is made of, in the table's words."""
    registers = sum(token.startswith("register") for token in cfg.prefix_tokens)
    others = [token for token in cfg.prefix_tokens if not token.startswith("register")]
    return {
        "blocks": cfg.wiring,
        "norm": cfg.normalization_type,
        "mlp": "gated" if cfg.gated_mlp else "plain",
        "heads": cfg.n_heads,
        "depth": cfg.n_layers,
        "d_model": cfg.d_model,
        "prefix_tokens": " + ".join([*others, *([f"{registers} registers"] if registers else [])]) or "none",
        "patches": f"{cfg.grid_size[0]} × {cfg.grid_size[1]}",
        "positions": cfg.positional_embedding_type,
        "pooling": cfg.pool,
        "classes": cfg.n_classes,
    }


def family_table(table: pd.DataFrame) -> str:
    """The table of docs/pages/model.md: one row per file of timm."""
    lines = [
        "| timm's file | names | ported | block wirings | positions | pooling | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for file, rows in table.groupby("file", sort=False):
        ported = rows[rows["refused"] == ""]

        def kinds(column: str, ported: pd.DataFrame = ported) -> str:
            return ", ".join(sorted(set(ported[column])))

        worst = pd.to_numeric(ported["difference"]).max()
        cells = [f"`{file}.py`", len(rows), len(ported), kinds("blocks"), kinds("positions"), kinds("pooling"), worst]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    ported = table[table["refused"] == ""]
    worst = pd.to_numeric(ported["difference"]).max()
    lines.append(f"| all | {len(table)} | {len(ported)} | | | | {worst} |")
    return "\n".join(lines)
