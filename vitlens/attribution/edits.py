"""Checks the user's hooks during an attributed run: which edits the shares include, and which must be refused."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.edits import Edits

#: The stream, to which a hook adds what no component wrote, and everything from its end to the logits.
STREAM = (
    r"blocks\.\d+\.hook_resid_\w+|(ln_final|pool|pool_dist|fc_norm|unembed|unembed_dist)\..+|hook_pooled\w*|hook_logits"
)
#: Hook points between a unit's own value and the stream, and those whose values a unit computes again instead of reading.
BEHIND_HEADS = r"blocks\.\d+\.(attn\.hook_result|hook_attn_out)"
BEHIND_VALUES = r"blocks\.\d+\.attn\.(hook_z_pre|hook_z_mixed|(ln_z|sub_norm)\.hook_normalized)"
BEFORE_VALUES = r"blocks\.\d+\.(attn\.hook_v|ln1\.hook_normalized)"
BEHIND_NEURONS = r"blocks\.\d+\.hook_mlp_out"
UNSEEN = {
    "component": [],
    "token": [],
    "head": [BEHIND_HEADS],
    "head_patch": [BEHIND_HEADS, BEHIND_VALUES],
    "path": [BEHIND_HEADS, BEHIND_VALUES, BEFORE_VALUES],
    "neuron": [BEHIND_NEURONS],
    "graph": [BEHIND_HEADS, BEHIND_VALUES, BEFORE_VALUES, BEHIND_NEURONS],
}
#: The norms after heads and after neurons in post-norm blocks.
BEHIND_BRANCH = {"head": "ln1", "head_patch": "ln1", "path": "ln1", "neuron": "ln2", "graph": "(ln1|ln2)"}
Z = r"blocks\.\d+\.attn\.hook_z"


def watched(model: HookedViT, unit: str) -> list[str]:
    """The hook points at which edits are checked: each is refused or taken into account."""
    patterns = [STREAM, *UNSEEN[unit]]
    if model.cfg.wiring == "post-norm" and unit in BEHIND_BRANCH:
        patterns.append(rf"blocks\.\d+\.{BEHIND_BRANCH[unit]}\.hook_normalized")
    if splits_z(unit):
        patterns.append(Z)
    return [name for name in model.hook_dict if re.fullmatch("|".join(patterns), name)]


def splits_z(unit: str) -> bool:
    """Whether the unit computes the outputs of heads from their patterns and values."""
    return unit in ("head_patch", "path", "graph")


def silenced(edits: Edits, unit: str, tokens: slice) -> dict[str, Float[Tensor, "image token head d_head"]]:
    """For each block's `hook_gate`, 0 where a hook set z to zero, and 1 elsewhere.

    Raises:
        InputError: any other edit of z, or an edit that the unit cannot see.
    """
    masks = {}
    for name, (before, after) in edits.items():
        before, after = before[:, tokens], after[:, tokens]
        if not re.fullmatch(Z, name) or not torch.equal(torch.where(after == 0, 0, before), after):
            raise InputError(_sentence(name, unit))
        masks[name.removesuffix("hook_z") + "hook_gate"] = ((after != 0) | (before == 0)).to(before)
    return masks


def _sentence(name: str, unit: str) -> str:
    if re.fullmatch(STREAM, name):
        return (
            f"the hook at {name} changes what no component wrote, so the shares of components would not sum to this run's "
            "logit: edit what is written (z, post, attn_out, mlp_out) in its place, or attribute without the hook"
        )
    if unit == "graph":
        return (
            f'an attribution graph cannot see what the hook at {name} edits, since it works that out again: edit "pattern" '
            'in its place, put zeros into "z", or make the graph without the hook'
        )
    remedy = _other_units(unit)
    if re.fullmatch(Z, name):
        remedy = f'edit "v" or "pattern" in its place, put zeros there, or {remedy}'
    return f'unit="{unit}" cannot see what the hook at {name} edits, since it works that out again: {remedy}'


def _other_units(unit: str) -> str:
    choices: Sequence[str] = ("component", "head") if splits_z(unit) else ("component",)
    return "ask for unit=" + " or ".join(f'"{choice}"' for choice in choices)
