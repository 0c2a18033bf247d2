"""Multi-head self-attention, every step a hook point: q, k, v → scores → pattern → z → result."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from timm.layers import Attention as TimmAttention
from torch import Tensor, nn

from vitlens.model.hook_points import expose, hook_point
from vitlens.model.norm import LayerNorm


class Attention(nn.Module):
    """Adopts timm's `Attention` (its fused `qkv` layout) and the LayerScale that follows it in the block.

    `W_Q`, `W_K`, `W_V` [heads, d_model, d_head] and `W_O` [heads, d_head, d_model] show the weights in TransformerLens'
    layout; `W_O` and `b_O` include LayerScale, so that Σ_heads z W_O + b_O is what the stream receives.
    """

    def __init__(
        self,
        attention: TimmAttention,
        q_norm: LayerNorm | None,
        k_norm: LayerNorm | None,
        gamma: nn.Parameter | None,
    ) -> None:
        super().__init__()
        self.n_heads = attention.num_heads
        self.attn_scale = attention.scale
        self.fused = attention.fused_attn
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.gamma = gamma
        self.hook_q = hook_point(token_axis=-3)
        self.hook_k = hook_point(token_axis=-3)
        self.hook_v = hook_point(token_axis=-3)
        self.q_norm = q_norm
        self.k_norm = k_norm
        if q_norm is not None:
            self.hook_q_normed = hook_point(token_axis=-3)
        if k_norm is not None:
            self.hook_k_normed = hook_point(token_axis=-3)
        self.hook_attn_scores = hook_point()
        self.hook_pattern = hook_point()
        self.hook_z = hook_point(token_axis=-3)
        self.hook_result = hook_point(token_axis=-3)

    def forward(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch tokens d"]:
        qkv = rearrange(self.qkv(x), "b t (three h e) -> three b t h e", three=3, h=self.n_heads)
        q = expose(self.hook_q, qkv[0])
        k = expose(self.hook_k, qkv[1])
        v = expose(self.hook_v, qkv[2])
        if self.q_norm is not None:
            q = self.hook_q_normed(self.q_norm(q))
        if self.k_norm is not None:
            k = self.hook_k_normed(self.k_norm(k))
        z = expose(self.hook_z, self._mix(q, k, v))
        if self.hook_result.has_hooks():
            result = self.hook_result(einsum(z, self.W_O, "b t h e, h e d -> b t h d"))
            return result.sum(dim=2) + self.b_O
        out = self.proj(rearrange(z, "b t h e -> b t (h e)"))
        return out if self.gamma is None else out * self.gamma

    def _mix(
        self,
        q: Float[Tensor, "batch tokens heads d_head"],
        k: Float[Tensor, "batch tokens heads d_head"],
        v: Float[Tensor, "batch tokens heads d_head"],
    ) -> Float[Tensor, "batch tokens heads d_head"]:
        """softmax(scale · q kᵀ) v: one fused kernel, unless somebody watches the scores or the pattern."""
        q, k, v = (rearrange(x, "b t h e -> b h t e") for x in (q, k, v))
        if self.fused and not (self.hook_attn_scores.has_hooks() or self.hook_pattern.has_hooks()):
            z = F.scaled_dot_product_attention(q, k, v, scale=self.attn_scale)
        else:
            scores = self.hook_attn_scores((q * self.attn_scale) @ k.transpose(-2, -1))
            z = expose(self.hook_pattern, scores.softmax(dim=-1)) @ v
        return rearrange(z, "b h t e -> b t h e")

    def _projection(self, index: int) -> Float[Tensor, "heads d d_head"]:
        weight = self.qkv.weight.chunk(3, dim=0)[index]
        return rearrange(weight, "(h e) d -> h d e", h=self.n_heads)

    def _projection_bias(self, index: int) -> Float[Tensor, "heads d_head"]:
        if self.qkv.bias is None:
            size = self.qkv.out_features // 3
            bias = torch.zeros(size, dtype=self.qkv.weight.dtype, device=self.qkv.weight.device)
        else:
            bias = self.qkv.bias.chunk(3)[index]
        return rearrange(bias, "(h e) -> h e", h=self.n_heads)

    @property
    def W_Q(self) -> Float[Tensor, "heads d d_head"]:
        return self._projection(0)

    @property
    def W_K(self) -> Float[Tensor, "heads d d_head"]:
        return self._projection(1)

    @property
    def W_V(self) -> Float[Tensor, "heads d d_head"]:
        return self._projection(2)

    @property
    def b_Q(self) -> Float[Tensor, "heads d_head"]:
        return self._projection_bias(0)

    @property
    def b_K(self) -> Float[Tensor, "heads d_head"]:
        return self._projection_bias(1)

    @property
    def b_V(self) -> Float[Tensor, "heads d_head"]:
        return self._projection_bias(2)

    @property
    def W_O(self) -> Float[Tensor, "heads d_head d"]:
        weight = self.proj.weight if self.gamma is None else self.proj.weight * self.gamma[:, None]
        return rearrange(weight, "d (h e) -> h e d", h=self.n_heads)

    @property
    def b_O(self) -> Float[Tensor, "d"]:
        return scaled_bias(self.proj, self.gamma)


def scaled_bias(linear: nn.Linear, gamma: Tensor | None) -> Float[Tensor, "d"]:
    """The bias that a linear map adds to the stream, its LayerScale included; zeros where it has none."""
    if linear.bias is None:
        return linear.weight.new_zeros(linear.out_features)
    return linear.bias if gamma is None else linear.bias * gamma
