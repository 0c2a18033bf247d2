"""All blocks' weights in TransformerLens' layout, and the two circuits of every head."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from vitlens.errors import InputError
from vitlens.model.config import HookedViTConfig
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.embedding import Embedding


class StackedWeights:
    """`W_Q`, `W_K`, `W_V` [L, H, d, d_h], `W_O` [L, H, d_h, d], `W_in` [L, d, d_mlp], `W_out` [L, d_mlp, d], their
    biases, `W_gate` and `b_gate` where the MLP is gated, `W_pos` [T, d]. What writes to the stream includes LayerScale;
    keys and values that several heads share are shown once for each of these heads."""

    cfg: HookedViTConfig
    embed: Embedding
    blocks: Sequence[AnyBlock]

    def _stack(self, part: str, name: str) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    @property
    def W_Q(self) -> Float[Tensor, "layers heads d d_head"]:
        return self._stack("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layers heads d d_head"]:
        return self._stack("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layers heads d d_head"]:
        return self._stack("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layers heads d_head d"]:
        return self._stack("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layers heads d_head"]:
        return self._stack("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layers heads d_head"]:
        return self._stack("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layers heads d_head"]:
        return self._stack("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layers d"]:
        return self._stack("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layers d d_mlp"]:
        return self._stack("mlp", "W_in")

    @property
    def b_in(self) -> Float[Tensor, "layers d_mlp"]:
        return self._stack("mlp", "b_in")

    @property
    def W_gate(self) -> Float[Tensor, "layers d d_mlp"]:
        self._require_gate()
        return self._stack("mlp", "W_gate")

    @property
    def b_gate(self) -> Float[Tensor, "layers d_mlp"]:
        self._require_gate()
        return self._stack("mlp", "b_gate")

    def _require_gate(self) -> None:
        if not self.cfg.gated_mlp:
            raise InputError(
                f"the MLPs of {self.cfg.model_name} have no gate: W_in and b_in are all that they read with"
            )

    @property
    def W_out(self) -> Float[Tensor, "layers d_mlp d"]:
        return self._stack("mlp", "W_out")

    @property
    def b_out(self) -> Float[Tensor, "layers d"]:
        return self._stack("mlp", "b_out")

    @property
    def W_pos(self) -> Float[Tensor, "tokens d"]:
        if not self.embed.has_positions:
            raise InputError(f"{self.cfg.model_name} has no position embedding")
        return self.embed.positions_of_grid(self.cfg.grid_size)[0]

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ of every head [L, H, d, d]: which token a head looks for (before any q/k norm)."""
        if self.cfg.qk_norm:
            warnings.warn("q and k are normalised before they meet, so QK leaves that out", stacklevel=2)
        if "rotary" in self.cfg.positional_embedding_type:
            warnings.warn("q and k of patches are rotated before they meet, so QK leaves that out", stacklevel=2)
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head [L, H, d, d]: what a head writes for what it reads."""
        return FactoredMatrix(self.W_V, self.W_O)
