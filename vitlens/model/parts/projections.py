"""Computes queries, keys and values from the input of an attention, for each way in which timm packs the weights."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.parts.linear import LinearMap, effective_bias

# q, k and v, each [batch, tokens, heads, d_head].
QKV = tuple[Tensor, Tensor, Tensor]


class Projection(nn.Module):
    """q, k, v = x W_Q + b_Q, x W_K + b_K, x W_V + b_V; `heads` counts the heads of q, k and v."""

    heads: tuple[int, int, int]
    q_bias: Tensor
    k_bias: Tensor
    v_bias: Tensor

    def forward(self, x: Float[Tensor, "batch tokens d"], n_queries: int | None = None) -> QKV:
        """With `n_queries`, queries of the first tokens only: what nobody reads of the last block is not computed."""
        raise NotImplementedError

    def matrices(self) -> list[Float[Tensor, "heads d d_head"]]:
        """W_Q, W_K, W_V."""
        raise NotImplementedError

    def biases(self) -> list[Float[Tensor, "heads d_head"]]:
        """b_Q, b_K, b_V; zeros where there is none."""
        raise NotImplementedError


class FusedProjection(Projection):
    """One linear map whose rows are all queries, then all keys, then all values; its bias may be kept in three parts."""

    def __init__(
        self,
        qkv: LinearMap,
        heads: tuple[int, int, int],
        separate_biases: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.qkv: LinearMap = qkv
        self.heads = heads
        self.has_separate_biases = separate_biases is not None
        if separate_biases is not None:
            self.q_bias, self.v_bias = separate_biases[0], separate_biases[2]
            # timm keeps the keys' bias, which softmax could not see, as a buffer of zeros.
            self.register_buffer("k_bias", separate_biases[1], persistent=False)

    def _bias(self) -> Tensor | None:
        return torch.cat([self.q_bias, self.k_bias, self.v_bias]) if self.has_separate_biases else self.qkv.bias

    def forward(self, x: Float[Tensor, "batch tokens d"], n_queries: int | None = None) -> QKV:
        if n_queries is None:
            qkv = F.linear(x, self.qkv.weight, self._bias()) if self.has_separate_biases else self.qkv(x)
            parts = qkv.chunk(3, dim=-1)
        else:
            weight, bias = self.qkv.weight, self._bias() if self.has_separate_biases else self.qkv.bias
            width = len(weight) // 3
            of_queries, of_others = (None, None) if bias is None else (bias[:width], bias[width:])
            q = F.linear(x[:, :n_queries], weight[:width], of_queries)
            parts = (q, *F.linear(x, weight[width:], of_others).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (heads, -1)) for part, heads in zip(parts, self.heads, strict=True))
        return q, k, v

    def matrices(self) -> list[Float[Tensor, "heads d d_head"]]:
        parts = zip(self.qkv.weight.chunk(3, dim=0), self.heads, strict=True)
        return [rearrange(weight, "(h e) d -> h d e", h=heads) for weight, heads in parts]

    def biases(self) -> list[Float[Tensor, "heads d_head"]]:
        bias = self._bias()
        parts = (effective_bias(self.qkv) if bias is None else bias).chunk(3)
        return [rearrange(part, "(h e) -> h e", h=heads) for part, heads in zip(parts, self.heads, strict=True)]


class SplitProjection(Projection):
    """Three linear maps. Grouped keys and values (`groups` queries to one key) are repeated, so that each head has its
    own and can be patched alone."""

    def __init__(self, q: LinearMap, k: LinearMap, v: LinearMap, heads: int, groups: int = 1) -> None:
        super().__init__()
        self.q: LinearMap = q
        self.k: LinearMap = k
        self.v: LinearMap = v
        self.heads = (heads, heads, heads)
        self.groups = groups

    def _maps(self) -> list[tuple[LinearMap, int, int]]:
        """Each map, its own number of heads, and how often a head is repeated."""
        own = self.heads[0] // self.groups
        return [(self.q, self.heads[0], 1), (self.k, own, self.groups), (self.v, own, self.groups)]

    def forward(self, x: Float[Tensor, "batch tokens d"], n_queries: int | None = None) -> QKV:
        q, k, v = (
            repeat(rearrange(linear(read), "b t (h e) -> b t h e", h=heads), "b t h e -> b t (h g) e", g=times)
            for (linear, heads, times), read in zip(self._maps(), (x[:, :n_queries], x, x), strict=True)
        )
        return q, k, v

    def matrices(self) -> list[Float[Tensor, "heads d d_head"]]:
        return [
            repeat(rearrange(linear.weight, "(h e) d -> h d e", h=heads), "h d e -> (h g) d e", g=times)
            for linear, heads, times in self._maps()
        ]

    def biases(self) -> list[Float[Tensor, "heads d_head"]]:
        return [
            repeat(rearrange(effective_bias(linear), "(h e) -> h e", h=heads), "h e -> (h g) e", g=times)
            for linear, heads, times in self._maps()
        ]
