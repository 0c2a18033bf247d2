"""The paper's measures on a class lens of one batch: identifiability rate, change rates, composition (A3, A5–A7).

Each takes the `ClassLens` of the pictures' true classes (`class_lens(model, images, labels, sites="all")`) and returns a
table with one row per block and token group ("class token", "patches"; others such as registers are left out).
"""

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from vitlens.analysis.lens import ClassLens
from vitlens.errors import InputError


def identifiability(lens: ClassLens, site: str = "resid_post") -> pd.DataFrame:
    """A2: 1 − rank/C of the class, mean over pictures (and over patches), by block."""
    scores = lens.identifiability[lens.site_index(site)][..., 0]
    return _by_group(lens, {"identifiability": scores.double()})


def identifiability_rate(lens: ClassLens, block: int = -1, site: str = "resid_post") -> pd.Series:
    """A3: percent of patch tokens whose first class is the class, and percent of pictures with at least one such token."""
    first = lens.ranks[lens.site_index(site), block][..., 0] == 0
    patches = first[:, _groups(lens)["patches"]].double()
    return pd.Series(
        {
            "rate_percent": 100 * patches.mean(dim=1).mean().item(),
            "images_with_one_percent": 100 * patches.amax(dim=1).mean().item(),
        }
    )


def class_similarity_change_rate(lens: ClassLens) -> pd.DataFrame:
    """A5: share of tokens whose logit of the class rises from one block's output to the next, for blocks ≥ 1."""
    logits = lens.at("logit", "resid_post")[..., 0]
    return _by_group(lens, {"change_rate": (logits[1:] > logits[:-1]).double()}, first=1)


def class_change_by_sublayer(lens: ClassLens) -> pd.DataFrame:
    """A6: share of tokens for which the sublayer's output alone has a larger logit of the class than its own input has."""
    before, middle = lens.at("logit", "resid_pre")[..., 0], lens.at("logit", "resid_mid")[..., 0]
    attention, mlp = lens.at("logit", "attn_out")[..., 0], lens.at("logit", "mlp_out")[..., 0]
    return _by_group(lens, {"attention": (attention > before).double(), "mlp": (mlp > middle).double()})


def residual_composition(lens: ClassLens) -> pd.DataFrame:
    """A7: percent of tokens whose first class after the block is that of attn_out, of mlp_out, of the block's input,
    and of none of the three ("composed")."""

    def first_class(site: str) -> Tensor:
        return lens.top_classes[lens.site_index(site)][..., 0]

    after = first_class("resid_post")
    agrees = {
        "attention": after == first_class("attn_out"),
        "mlp": after == first_class("mlp_out"),
        "previous": after == first_class("resid_pre"),
    }
    agrees["composed"] = ~(agrees["attention"] | agrees["mlp"] | agrees["previous"])
    return _by_group(lens, {name: 100 * match.double() for name, match in agrees.items()})


def _groups(lens: ClassLens) -> dict[str, Bool[Tensor, "token"]]:
    labels = lens.axes["token"]
    groups = {
        "class token": torch.tensor([label == "class" for label in labels]),
        "patches": torch.tensor([label.startswith("(") for label in labels]),
    }
    present = {name: mask for name, mask in groups.items() if mask.any()}
    if not present:
        raise InputError(f"this lens holds neither the class token nor patches, only {', '.join(labels)}")
    return present


def _by_group(lens: ClassLens, measures: dict[str, Tensor], first: int = 0) -> pd.DataFrame:
    """Means over pictures and tokens of [block, image, token] values, one row per block and token group."""
    rows = [
        {"block": block, "tokens": group}
        | {name: values[i][:, mask].mean().item() for name, values in measures.items()}
        for group, mask in _groups(lens).items()
        for i, block in enumerate(lens.axes["block"][first:])
    ]
    return pd.DataFrame(rows)
