"""The paper's measures of class projections (Methods A2, A3, A5 to A7): identifiability, change rates, composition.

Each takes what `class_trace` gives for the pictures' true classes, or the same as a `class_lens(…, labels, sites="all")`,
and returns a table with one row per block and token group ("class token", "patches"; others such as registers are left
out). `picture_means` gives the same numbers picture by picture, which is what a run over a data set keeps.
`paper_compat=True` does what the paper's released code does where that differs: see each function, and Methods.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.lens.lens import ClassLens
from vitlens.lens.trace import ClassTrace, SiteTables
from vitlens.model.runs.leaves_state import leaves_state

#: The values of a measure for every token: by column, then by block [image, token].
TokenValues = dict[str, dict[int, Float[Tensor, "image token"]]]


@leaves_state
@checked
def identifiability(lens: ClassLens | ClassTrace | SiteTables, *, site: str = "resid_post") -> pd.DataFrame:
    """How well the class can be read off the tokens: mean of 1 − rank/C over pictures, by block (Methods A2).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> table = vitlens.lens.identifiability(trace)
        >>> table[table["block"] == 5].round(2)
            block       tokens  identifiability
        5       5  class token             0.99
        11      5      patches             0.94
    """
    return _table(as_tables(lens), identifiability_values(as_tables(lens), site))


@leaves_state
@checked
def identifiability_rate(
    lens: ClassLens | ClassTrace | SiteTables,
    *,
    block: int = -1,
    site: str = "resid_post",
    paper_compat: bool = False,
) -> pd.Series:
    """Percentage of patch tokens whose top-1 class is the class, and of pictures with such a token (Methods A3).

    The released code takes the first token for a class token in every model: with `paper_compat` the first patch of a
    model without one is left out.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> vitlens.lens.identifiability_rate(trace).round(1)
        rate_percent                70.6
        images_with_one_percent    100.0
        dtype: float64
    """
    trace = as_tables(lens)
    rate, any_first = identifiability_rates(trace, block, site, paper_compat)
    return pd.Series(
        {
            "rate_percent": 100 * rate.mean().item(),
            "images_with_one_percent": 100 * any_first.double().mean().item(),
        }
    )


@leaves_state
@checked
def class_similarity_change_rate(lens: ClassLens | ClassTrace | SiteTables) -> pd.DataFrame:
    """Share of tokens whose logit of the class rises from one block's output to the next (Methods A5), for blocks ≥ 1.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> vitlens.lens.class_similarity_change_rate(trace).round(2).tail(2)
           block   tokens  change_rate
        8      4  patches         0.37
        9      5  patches         0.94
    """
    return _table(as_tables(lens), change_values(as_tables(lens)))


@leaves_state
@checked
def class_change_by_sublayer(lens: ClassLens | ClassTrace | SiteTables, *, paper_compat: bool = False) -> pd.DataFrame:
    """Share of tokens where a sublayer's output has a larger logit of the class than its own input has (Methods A6).

    The released code compares the MLP's output with the block's input, not with its own: `paper_compat` does so too.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> vitlens.lens.class_change_by_sublayer(trace).round(1).tail(1)
            block   tokens  attention  mlp
        11      5  patches        0.9  0.1
    """
    return _table(as_tables(lens), sublayer_change_values(as_tables(lens), paper_compat))


@leaves_state
@checked
def residual_composition(lens: ClassLens | ClassTrace | SiteTables, *, paper_compat: bool = False) -> pd.DataFrame:
    """Percentage of tokens whose top-1 class after the block is that of attn_out, of mlp_out, of the block's input, or of
    none of the three ("composed"; Methods A7).

    The released code leaves the MLP out of the last: `paper_compat` does so too.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> trace = vitlens.lens.class_trace(model, images[:8], labels[:8])
        >>> vitlens.lens.residual_composition(trace).round(1).tail(1)
            block   tokens  attention   mlp  previous  composed
        11      5  patches       72.3  12.7      30.3       3.8
    """
    return _table(as_tables(lens), composition_values(as_tables(lens), paper_compat))


# ---- the measures, token by token ------------------------------------------------------------------------------------


def identifiability_values(trace: SiteTables, site: str = "resid_post") -> TokenValues:
    scores = {b: 1 - trace.ranks[site, b].double() / trace.n_classes for b in _blocks(trace, site)}
    return {"identifiability": scores}


def identifiability_rates(
    trace: SiteTables, block: int = -1, site: str = "resid_post", paper_compat: bool = False
) -> tuple[Float[Tensor, "image"], Bool[Tensor, "image"]]:
    """By picture, the share of its patches at rank 0, and whether there is one (Methods A3)."""
    first = trace.ranks[site, _chosen_block(block, _blocks(trace, site))] == 0
    groups = token_groups(trace, paper_compat)
    if "patches" not in groups:
        raise InputError(f"this measure reads patches, and the lens was taken at {', '.join(trace.token_labels)} only")
    patches = first[:, groups["patches"]]
    return patches.double().mean(dim=1), patches.any(dim=1)


def change_values(trace: SiteTables) -> TokenValues:
    blocks = [b for b in _blocks(trace, "resid_post") if ("resid_pre", b) in trace.logits and b > 0]
    rises = {b: (trace.logits["resid_post", b] > trace.logits["resid_pre", b]).double() for b in blocks}
    return {"change_rate": rises}


def sublayer_change_values(trace: SiteTables, paper_compat: bool = False) -> TokenValues:
    mlp_input = "resid_pre" if paper_compat else "resid_mid"
    logits = trace.logits
    blocks = [b for b in _blocks(trace, "attn_out", "mlp_out") if ("resid_pre", b) in logits]
    for site in ("resid_pre", mlp_input):
        _blocks(trace, site)
    return {
        "attention": {b: (logits["attn_out", b] > logits["resid_pre", b]).double() for b in blocks},
        "mlp": {b: (logits["mlp_out", b] > logits[mlp_input, b]).double() for b in blocks},
    }


def composition_values(trace: SiteTables, paper_compat: bool = False) -> TokenValues:
    sources = {"attention": "attn_out", "mlp": "mlp_out", "previous": "resid_pre"}
    _blocks(trace, *sources.values())
    values: TokenValues = {name: {} for name in (*sources, "composed")}
    for b in _blocks(trace, "resid_post"):
        if any((site, b) not in trace.first for site in sources.values()):
            continue
        agrees = {name: trace.first["resid_post", b] == trace.first[site, b] for name, site in sources.items()}
        tested = ("attention", "previous") if paper_compat else tuple(agrees)
        agrees["composed"] = ~torch.stack([agrees[name] for name in tested]).any(dim=0)
        for name, match in agrees.items():
            values[name][b] = 100 * match.double()
    return values


# ---- averages --------------------------------------------------------------------------------------------------------


def token_groups(trace: SiteTables, paper_compat: bool = False) -> dict[str, Bool[Tensor, "token"]]:
    """Which tokens are the class token, and which are patches."""
    labels = trace.token_labels
    groups = {
        "class token": torch.tensor([label == "class" for label in labels]),
        "patches": torch.tensor([label.kind == "patch" for label in labels]),
    }
    if paper_compat and not groups["class token"].any():
        groups["patches"][int(groups["patches"].nonzero()[0])] = False
    present = {name: mask for name, mask in groups.items() if mask.any()}
    if not present:
        raise InputError(f"this lens holds neither the class token nor patches, only {', '.join(labels)}")
    return present


def picture_means(
    trace: SiteTables, values: TokenValues, paper_compat: bool = False
) -> dict[tuple[str, str], Float[Tensor, "image block"]]:
    """Means over each picture's tokens, by token group and column."""
    return {
        (group, column): torch.stack([tokens[:, mask.to(tokens.device)].mean(dim=1) for tokens in by_block.values()], 1)
        for group, mask in token_groups(trace, paper_compat).items()
        for column, by_block in values.items()
        if by_block
    }


def as_tables(lens: ClassLens | ClassTrace | SiteTables) -> SiteTables:
    """A lens or trace of one class per picture, as the tables that the measures read.

    Raises:
        InputError: a lens of several classes, or without ranks; what is no lens.
    """
    if isinstance(lens, SiteTables):
        return lens
    if isinstance(lens, ClassTrace):
        return lens.tables()
    if not isinstance(lens, ClassLens):
        raise InputError(f"a measure reads what class_lens or class_trace gives, not {type(lens).__name__}")
    if len(lens.axes["class"]) != 1:
        raise InputError(
            f"a measure is about one class per picture, and this lens has {len(lens.axes['class'])}: take it with the "
            'pictures\' labels, class_lens(model, images, labels, sites="all")'
        )
    ranked = lens.ranked()
    columns = {"logits": lens.values, "ranks": ranked.ranks, "first": ranked.top_classes}
    tables: dict[str, dict[tuple[str, int], Tensor]] = {name: {} for name in columns}
    for name, tensor in columns.items():
        for i, site in enumerate(lens.axes["site"]):
            for j, block in enumerate(lens.axes["block"]):
                tables[name][site, block] = tensor[i, j, ..., 0]
                if site == "resid_post" and block + 1 in lens.axes["block"]:
                    tables[name].setdefault(("resid_pre", block + 1), tensor[i, j, ..., 0])
    return SiteTables(**tables, n_classes=lens.n_classes, token_labels=lens.axes["token"])


def _blocks(trace: SiteTables, *sites: str) -> list[int]:
    """The blocks that were watched at all of these sites."""
    for site in sites:
        if not any(key[0] == site for key in trace.logits):
            known = dict.fromkeys(key[0] for key in trace.logits)
            raise InputError(f"this measure reads {site}, and the lens was taken at {', '.join(known)} only")
    return sorted({b for _, b in trace.logits if all((site, b) in trace.logits for site in sites)})


def _chosen_block(block: int, blocks: list[int]) -> int:
    """One of the blocks that were watched; counted from the last where it is negative.

    Raises:
        InputError: it was not.
    """
    is_number = isinstance(block, (int, np.integer)) and not isinstance(block, bool)
    if is_number and -len(blocks) <= block < 0:
        return blocks[block]
    if not is_number or block not in blocks:
        raise InputError(f"the lens was taken after the blocks {', '.join(map(str, blocks))}, not after {block!r}")
    return int(block)


def _table(trace: SiteTables, values: TokenValues) -> pd.DataFrame:
    """Means over pictures and tokens, one row per block and token group."""
    blocks = list(next(iter(values.values())))
    if not blocks:
        raise InputError(
            "this measure compares the output of a block with its input: the lens needs two blocks that follow each "
            'other, or sites="all"'
        )
    means = {key: table.mean(dim=0).tolist() for key, table in picture_means(trace, values).items()}
    rows = [
        {"block": block, "tokens": group} | {column: means[group, column][i] for column in values}
        for group in token_groups(trace)
        for i, block in enumerate(blocks)
    ]
    return pd.DataFrame(rows)
