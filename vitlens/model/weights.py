"""All blocks' weights in TransformerLens' layout, and the two circuits of every head."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix, HookedRootModule

from vitlens.errors import InputError
from vitlens.model.block import Block
from vitlens.model.config import HookedViTConfig
from vitlens.model.embedding import Embedding


class StackedWeights(HookedRootModule):
    """`W_Q`, `W_K`, `W_V` [L, H, d, d_h], `W_O` [L, H, d_h, d], `W_in` [L, d, d_mlp], `W_out` [L, d_mlp, d], their
    biases, `W_U` [d, C], `b_U` [C], `W_pos` [T, d]. What writes to the stream includes LayerScale."""

    cfg: HookedViTConfig
    embed: Embedding
    blocks: Sequence[Block]
    unembed: nn.Linear | None
    unembed_dist: nn.Linear | None

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
    def W_out(self) -> Float[Tensor, "layers d_mlp d"]:
        return self._stack("mlp", "W_out")

    @property
    def b_out(self) -> Float[Tensor, "layers d"]:
        return self._stack("mlp", "b_out")

    @property
    def classifiers(self) -> list[nn.Linear]:
        """The classifier, or the two whose mean a distilled model answers with.

        Raises:
            InputError: the model has none.
        """
        if self.unembed is None:
            raise InputError(
                f"{self.cfg.model_name} was loaded without a classifier (num_classes=0), so there is no class to ask for"
            )
        return [head for head in (self.unembed, self.unembed_dist) if head is not None]

    def require_classifier(self) -> None:
        """Raises InputError where there is no classifier, before any work is done."""
        self.classifiers  # noqa: B018

    @property
    def W_U(self) -> Float[Tensor, "d classes"]:
        """The class embeddings as columns; of a distilled model, the mean of its two classifiers."""
        heads = self.classifiers
        return sum([head.weight for head in heads[1:]], heads[0].weight).T / len(heads)

    @property
    def b_U(self) -> Float[Tensor, "classes"]:
        heads = self.classifiers
        biases = [head.weight.new_zeros(len(head.weight)) if head.bias is None else head.bias for head in heads]
        return sum(biases[1:], biases[0]) / len(biases)

    @property
    def W_pos(self) -> Float[Tensor, "tokens d"]:
        if self.embed.pos_embed is None:
            raise InputError(f"{self.cfg.model_name} has no position embedding")
        return self.embed.positions(self.cfg.grid_size)[0]

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_Kᵀ of every head [L, H, d, d]: which token a head looks for (before any q/k norm)."""
        if self.cfg.qk_norm:
            warnings.warn("q and k are normalised before they meet, so QK leaves that out", stacklevel=2)
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of every head [L, H, d, d]: what a head writes for what it reads."""
        return FactoredMatrix(self.W_V, self.W_O)
