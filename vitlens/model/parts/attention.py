"""Multi-head self-attention, every step a hook point: q, k, v → scores → pattern → z → result."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import expose, hook_point
from vitlens.model.parts.linear import LinearMap, effective_bias, effective_weight
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.projections import Projection


@dataclass(frozen=True)
class Rotation:
    """How rotary positions turn q and k of the patches: tokens before the patches stay as they are."""

    n_prefix_tokens: int
    half: bool

    def __call__(
        self, x: Float[Tensor, "batch tokens heads d_head"], angles: Float[Tensor, "... patches sin_cos"]
    ) -> Float[Tensor, "batch tokens heads d_head"]:
        x = rearrange(x, "b t h e -> b h t e")
        prefix, patches = x[:, :, : self.n_prefix_tokens], x[:, :, self.n_prefix_tokens :]
        # Older versions of timm do not have the argument `half`.
        rotated = apply_rot_embed_cat(patches, angles, **({"half": True} if self.half else {}))
        turned = torch.cat([prefix, rotated], dim=2).type_as(x)
        return rearrange(turned, "b h t e -> b t h e")


class Attention(nn.Module):
    """z = softmax(scale · q kᵀ + bias) v, then its norm and gate where there are any; out = Σ_heads z W_O + b_O.

    `W_Q`, `W_K`, `W_V` [heads, d_model, d_head] and `W_O` [heads, d_head, d_model] show the weights in TransformerLens'
    layout; `W_O` and `b_O` include the LayerScale that follows in the block.
    """

    #: Whether a pattern is the difference of two softmaxes, so that its rows do not sum to 1.
    subtracts_patterns = False
    #: What multiplies `head_norm`.
    head_factor = 1.0

    def __init__(
        self,
        project: Projection,
        proj: LinearMap,
        *,
        scale: float,
        fused: bool = True,
        gamma: nn.Parameter | None = None,
        q_norm: Norm | None = None,
        k_norm: Norm | None = None,
        rotation: Rotation | None = None,
        rel_pos: nn.Module | None = None,
        shares_rel_pos: bool = False,
        ln_z: Norm | None = None,
        gate: LinearMap | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = project.heads[2]
        self.attn_scale = scale
        self.fused = fused
        self.project = project
        self.hook_q = hook_point(token_axis=-3)
        self.hook_k = hook_point(token_axis=-3)
        self.hook_v = hook_point(token_axis=-3)
        self.q_norm, self.k_norm = q_norm, k_norm
        if q_norm is not None:
            self.hook_q_normed = hook_point(token_axis=-3)
        if k_norm is not None:
            self.hook_k_normed = hook_point(token_axis=-3)
        self.rotation = rotation
        if rotation is not None:
            self.hook_rot_q = hook_point(token_axis=-3)
            self.hook_rot_k = hook_point(token_axis=-3)
        self.rel_pos = rel_pos
        if rel_pos is not None or shares_rel_pos:
            self.hook_rel_pos_bias = hook_point()
        self.hook_attn_scores = hook_point()
        self.hook_pattern = hook_point()
        self.ln_z = ln_z
        self.gate = gate
        if gate is not None:
            self.hook_gate = hook_point(token_axis=-3)
        if ln_z is not None or gate is not None:
            self.hook_z_pre = hook_point(token_axis=-3)
        self.hook_z = hook_point(token_axis=-3)
        self.proj: LinearMap = proj
        self.gamma = gamma
        self.hook_result = hook_point(token_axis=-3)

    def forward(
        self,
        x: Float[Tensor, "batch tokens d"],
        angles: Tensor | None = None,
        bias: Tensor | None = None,
        n_queries: int | None = None,
    ) -> Float[Tensor, "batch queries d"]:
        """What attention writes. `angles` are those of this run's rotary positions, `bias` is added to the scores of
        every block: shared relative positions, or −∞ where padding stands. With `n_queries`, what it writes to the first
        tokens only; those are prefix tokens."""
        q, k, v = self.project(x, n_queries)
        z = self._after_mixing(self.attend(q, k, v, angles, bias, n_queries), x[:, :n_queries])
        if self.hook_result.has_hooks():
            result = self.hook_result(einsum(z, self.W_O, "b t h e, h e d -> b t h d"))
            return result.sum(dim=2) + self.b_O
        out = self.proj(z.flatten(-2))
        return out if self.gamma is None else out * self.gamma

    def attend(
        self,
        q: Float[Tensor, "batch queries ..."],
        k: Float[Tensor, "batch tokens ..."],
        v: Float[Tensor, "batch tokens heads d_head"],
        angles: Tensor | None = None,
        bias: Tensor | None = None,
        n_queries: int | None = None,
    ) -> Float[Tensor, "batch queries heads d_head"]:
        """What the heads fetch, from queries, keys and values as they were projected: their norms, rotation, mixing."""
        q, k, v = expose(self.hook_q, q), expose(self.hook_k, k), expose(self.hook_v, v)
        if self.q_norm is not None:
            q = self.hook_q_normed(self.q_norm(q))
        if self.k_norm is not None:
            k = self.hook_k_normed(self.k_norm(k))
        if self.rotation is not None and angles is not None:
            # Prefix tokens have no place in the picture, and are not turned.
            q = self.hook_rot_q(q if n_queries is not None else self.rotation(q, angles))
            k = self.hook_rot_k(self.rotation(k, angles))
        score_bias = self._score_bias(len(q), bias)
        if score_bias is not None and n_queries is not None and score_bias.shape[-2] > 1:
            score_bias = score_bias[..., :n_queries, :]
        return self._mix(q, k, v, score_bias)

    def _score_bias(self, n_images: int, shared: Tensor | None) -> Tensor | None:
        """What is added to the scores: this block's relative positions and what all blocks share."""
        bias = shared
        if self.rel_pos is not None:
            bias = self.rel_pos() if shared is None else self.rel_pos() + shared
        if bias is not None and hasattr(self, "hook_rel_pos_bias"):
            bias = expose(self.hook_rel_pos_bias, bias.expand(n_images, -1, -1, -1))
        return bias

    def _mix(
        self,
        q: Float[Tensor, "batch queries heads d_head"],
        k: Float[Tensor, "batch tokens heads d_head"],
        v: Float[Tensor, "batch tokens heads d_head"],
        bias: Tensor | None,
    ) -> Float[Tensor, "batch queries heads d_head"]:
        """softmax(scale · q kᵀ + bias) v: one fused kernel, unless somebody watches the scores or the pattern."""
        # Plain transposes: in small models the time that einops itself takes is noticeable.
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.fused and not (self.hook_attn_scores.has_hooks() or self.hook_pattern.has_hooks()):
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.attn_scale)
        else:
            z = expose(self.hook_pattern, self._scores(q, k, bias).softmax(dim=-1)) @ v
        return z.transpose(1, 2)

    def _scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Float[Tensor, "batch maps query key"]:
        scores = (q * self.attn_scale) @ k.transpose(-2, -1)
        return self.hook_attn_scores(scores if bias is None else scores + bias)

    def _after_mixing(
        self, z: Float[Tensor, "batch tokens heads d_head"], x: Float[Tensor, "batch tokens d"]
    ) -> Float[Tensor, "batch tokens heads d_head"]:
        """The norm over all heads of a token and the gate, where there are any; then hook_z: what multiplies W_O."""
        if self.ln_z is not None or self.gate is not None:
            z = expose(self.hook_z_pre, z)
        if self.ln_z is not None:
            z = rearrange(self.ln_z(rearrange(z, "b t h e -> b t (h e)")), "b t (h e) -> b t h e", h=self.n_heads)
        if self.gate is not None:
            opening = rearrange(self.gate(x).sigmoid(), "b t (h e) -> b t h e", h=self.n_heads)
            z = z * expose(self.hook_gate, opening)
        return expose(self.hook_z, z)

    @property
    def head_norm(self) -> Norm | None:
        """The norm that each head's mixture of values passes for itself."""
        return None

    @property
    def mixed_site(self) -> str:
        """The hook point at which the heads' mixtures of values are seen before any norm or gate."""
        return "z_pre" if hasattr(self, "hook_z_pre") else "z"

    @property
    def W_Q(self) -> Float[Tensor, "heads d d_head"]:
        return self.project.matrices()[0]

    @property
    def W_K(self) -> Float[Tensor, "heads d d_head"]:
        return self.project.matrices()[1]

    @property
    def W_V(self) -> Float[Tensor, "heads d d_head"]:
        return self.project.matrices()[2]

    @property
    def b_Q(self) -> Float[Tensor, "heads d_head"]:
        return self.project.biases()[0]

    @property
    def b_K(self) -> Float[Tensor, "heads d_head"]:
        return self.project.biases()[1]

    @property
    def b_V(self) -> Float[Tensor, "heads d_head"]:
        return self.project.biases()[2]

    @property
    def W_O(self) -> Float[Tensor, "heads d_head d"]:
        return rearrange(effective_weight(self.proj, self.gamma), "d (h e) -> h e d", h=self.n_heads)

    @property
    def b_O(self) -> Float[Tensor, "d"]:
        return effective_bias(self.proj, self.gamma)


class DifferentialAttention(Attention):
    """z = (1 − λ₀) norm((softmax(q₁ k₁ᵀ) − λ softmax(q₂ k₂ᵀ)) v): two softmaxes a head, one subtracted from the other.

    q and k have 2 · heads heads of half the width; `hook_attn_scores` and `hook_softmax` [batch, 2 · heads, T, T] show
    both maps of every head, `hook_pattern` [batch, heads, T, T] their difference, which is what meets v.

    Source: Ye et al. 2024 (Differential Transformer), equations 1 to 3.
    """

    subtracts_patterns = True
    mixed_site = "z_mixed"

    def __init__(
        self, project: Projection, proj: LinearMap, *, sub_norm: Norm, lambdas: "Lambdas", **options: object
    ) -> None:
        super().__init__(project, proj, **options)  # type: ignore[arg-type]
        self.hook_softmax = hook_point()
        self.hook_z_mixed = hook_point(token_axis=-3)
        self.sub_norm: Norm = sub_norm
        self.lambdas: Lambdas = lambdas

    @property
    def head_norm(self) -> Norm:
        return self.sub_norm

    @property
    def head_factor(self) -> float:  # type: ignore[override]
        return 1 - self.lambdas.initial

    def _mix(
        self,
        q: Float[Tensor, "batch queries two_heads half"],
        k: Float[Tensor, "batch tokens two_heads half"],
        v: Float[Tensor, "batch tokens heads d_head"],
        bias: Tensor | None,
    ) -> Float[Tensor, "batch queries heads d_head"]:
        q, k, v = (rearrange(x, "b t h e -> b h t e") for x in (q, k, v))
        share = self.lambdas().type_as(q)
        watched = (self.hook_attn_scores, self.hook_softmax, self.hook_pattern)
        if self.fused and not any(point.has_hooks() for point in watched):
            first, second = (
                F.scaled_dot_product_attention(q[:, i::2], k[:, i::2], v, attn_mask=bias, scale=self.attn_scale)
                for i in (0, 1)
            )
            z = first - share * second
        else:
            softmax = expose(self.hook_softmax, self._scores(q, k, bias).softmax(dim=-1))
            z = expose(self.hook_pattern, softmax[:, 0::2] - share * softmax[:, 1::2]) @ v
        z = expose(self.hook_z_mixed, rearrange(z, "b h t e -> b t h e"))
        return self.sub_norm(z) * self.head_factor


class Lambdas(nn.Module):
    """λ = exp(λ_a) − exp(λ_b) + λ₀, with λ_a = ⟨q₁, k₁⟩ and λ_b = ⟨q₂, k₂⟩ where timm learns them as vectors."""

    def __init__(self, pairs: list[nn.Parameter], initial: float) -> None:
        super().__init__()
        self.pairs = nn.ParameterList(pairs)
        self.initial = initial

    def forward(self) -> Float[Tensor, ""]:
        if len(self.pairs) == 2:
            first, second = self.pairs
        else:
            q1, k1, q2, k2 = self.pairs
            # timm computes these exponents in single precision whatever the model's dtype.
            first, second = (q1 * k1).sum().float(), (q2 * k2).sum().float()
        return first.exp() - second.exp() + self.initial
