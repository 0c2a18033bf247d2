"""Stacks the weights of all blocks in TransformerLens' layout."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


class Stacked:
    """A weight of every block's attention or MLP, stacked along a first axis: an attribute of a HookedViT."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: "HookedViT | None", owner: type) -> Any:
        if model is None:
            return self
        if self.name in ("W_gate", "b_gate") and not model.cfg.gated_mlp:
            raise InputError(
                f"the MLPs of {model.cfg.model_name} have no gate: W_in and b_in are all that they read with"
            )
        return torch.stack([getattr(getattr(block, self.part), self.name) for block in model.blocks])

    def __set__(self, model: "HookedViT", value: Any) -> None:
        raise AttributeError(f"{self.name} shows the weights of the blocks: change those of model.blocks instead")


def positions(model: "HookedViT") -> Float[Tensor, "tokens d"]:
    if not model.embed.has_positions:
        raise InputError(f"{model.cfg.model_name} has no position embedding")
    return model.embed.positions_of_grid(model.cfg.grid_size)[0]


def qk_circuits(model: "HookedViT") -> FactoredMatrix:
    """W_Q W_Kᵀ of every head, and a warning where more than that happens before q and k meet."""
    if model.cfg.qk_norm:
        warnings.warn("q and k are normalised before they meet, so QK leaves that out", stacklevel=3)
    if "rotary" in model.cfg.positional_embedding_type:
        warnings.warn("q and k of patches are rotated before they meet, so QK leaves that out", stacklevel=3)
    return FactoredMatrix(model.W_Q, model.W_K.transpose(-2, -1))
