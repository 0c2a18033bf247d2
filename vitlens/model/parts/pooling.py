"""Pools the tokens of the last residual stream into the vector that the classifier reads."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitlens.model.hooks.hook_points import NO_TOKENS, expose, hook_point
from vitlens.model.parts.linear import LinearMap, effective_bias
from vitlens.model.parts.mlp import MLP
from vitlens.model.parts.norm import Norm

Valid = Bool[Tensor, "batch read"] | None


class Pool(nn.Module):
    """Reads the tokens of a slice; `valid` leaves out the padding among them."""

    #: Whether the pooled vector is a weighted mean of the tokens, with weights that do not depend on them.
    is_mean = False

    def __init__(self, tokens: slice) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch pooled"]:
        raise NotImplementedError

    def read(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch pooled"]:
        """The pooled vector, without passing hook points."""
        return self(x, valid)

    def masked(
        self, x: Float[Tensor, "batch tokens d"], mask: Float[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch pooled"]:
        """The pooled vector when each token counts only in part (0: removed, 1: whole), without passing hook points."""
        raise NotImplementedError

    def of_one(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch pooled"]:
        """The pooled vector if every token that is read were x."""
        return x

    def width(self, d_model: int) -> int:
        """How many numbers the pooled vector has."""
        return d_model


class MeanPool(Pool):
    """The mean of the tokens; a single one is selected, bit for bit as timm does."""

    is_mean = True

    def forward(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch d"]:
        read = x[:, self.tokens]
        if read.shape[1] == 1:
            return read[:, 0]
        return read.mean(dim=1) if valid is None else einsum(self.weights(read, valid), read, "b t, b t d -> b d")

    def masked(
        self, x: Float[Tensor, "batch tokens d"], mask: Float[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch d"]:
        present = mask[:, self.tokens]
        return einsum(present / present.sum(dim=1, keepdim=True), x[:, self.tokens], "b t, b t d -> b d")

    def weights(self, read: Float[Tensor, "batch read d"], valid: Valid = None) -> Float[Tensor, "batch read"]:
        """The weight of each token."""
        counted = read.new_ones(read.shape[:2]) if valid is None else valid.to(read.dtype)
        return counted / counted.sum(dim=1, keepdim=True).clamp(min=1)


class ClassAndMeanPool(Pool):
    """The class token and, after it, the mean of the patches: a vector twice as wide as a token. Registers are not read.

    Source: Oquab et al. 2023 (DINOv2), whose linear classifiers read both.
    """

    def __init__(self, n_prefix_tokens: int) -> None:
        super().__init__(slice(0, None))
        self.first_patch = n_prefix_tokens

    def forward(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch pooled"]:
        if valid is None:
            return torch.cat([x[:, 0], x[:, self.first_patch :].mean(dim=1)], dim=-1)
        return einsum(self.weights(x, valid), x, "b g t, b t d -> b g d").flatten(1)

    def masked(
        self, x: Float[Tensor, "batch tokens d"], mask: Float[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch pooled"]:
        present = mask[:, self.first_patch :]
        mean = einsum(present / present.sum(dim=1, keepdim=True), x[:, self.first_patch :], "b t, b t d -> b d")
        return torch.cat([x[:, 0], mean], dim=-1)

    def of_one(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch pooled"]:
        return torch.cat([x, x], dim=-1)

    def width(self, d_model: int) -> int:
        return 2 * d_model

    def weights(self, read: Float[Tensor, "batch read d"], valid: Valid = None) -> Float[Tensor, "batch 2 read"]:
        """The weight of each token in either half."""
        weights = read.new_zeros(len(read), 2, read.shape[1])
        weights[:, 0, 0] = 1
        weights[:, 1, self.first_patch :] = 1 if valid is None else valid[:, self.first_patch :].to(read.dtype)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)


class MaxPool(Pool):
    """The maximum over tokens, feature by feature; with `mean_share` ½ timm's avgmax, half maximum and half mean."""

    def __init__(self, tokens: slice, mean_share: float = 0.0) -> None:
        super().__init__(tokens)
        self.mean_share = mean_share

    def forward(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch d"]:
        read = x[:, self.tokens]
        return einsum(self.weights(read, valid), read, "b t d, b t d -> b d")

    def masked(
        self, x: Float[Tensor, "batch tokens d"], mask: Float[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch d"]:
        # As in attention's scores, log m lowers a token; if all tokens are masked alike, none is lowered.
        read, present = x[:, self.tokens], mask[:, self.tokens, None]
        highest = (read + (present / present.amax(dim=1, keepdim=True)).log()).amax(dim=1)
        mean = (present / present.sum(dim=1, keepdim=True) * read).sum(dim=1)
        return (1 - self.mean_share) * highest + self.mean_share * mean if self.mean_share else highest

    def weights(self, read: Float[Tensor, "batch read d"], valid: Valid = None) -> Float[Tensor, "batch read d"]:
        """The weight of each token in each feature; tokens that tie share it, as in the gradient of the maximum."""
        counted = read if valid is None else read.masked_fill(~valid[..., None], torch.finfo(read.dtype).min)
        highest = counted == counted.amax(dim=1, keepdim=True)
        weights = highest / highest.sum(dim=1, keepdim=True).to(read.dtype)
        if self.mean_share:
            mean = read.new_ones(read.shape[:2]) if valid is None else valid.to(read.dtype)
            mean = mean / mean.sum(dim=1, keepdim=True).clamp(min=1)
            weights = (1 - self.mean_share) * weights + self.mean_share * mean[..., None]
        return weights


class AttentionPool(Pool):
    """One learned query attends to the tokens: out = Σ_heads z W_O + b_O, pooled = out + mlp(ln(out)) (MAP pooling).

    Without an MLP the pooled vector is out, which may be narrower or wider than the tokens.

    Source: Lee et al. 2019 (Set Transformer); Zhai et al. 2022, which uses it in place of a class token.
    """

    def __init__(
        self,
        tokens: slice,
        latent: nn.Parameter,
        q: nn.Linear | nn.Identity,
        kv: nn.Linear,
        proj: nn.Linear,
        n_heads: int,
        fused: bool,
        q_norm: Norm | None,
        k_norm: Norm | None,
        ln: Norm | None,
        mlp: MLP | None,
    ) -> None:
        super().__init__(tokens)
        self.latent = latent
        self.q, self.kv, self.proj = q, kv, proj
        self.n_heads = n_heads
        self.fused = fused
        self.hook_q = hook_point(NO_TOKENS)
        self.hook_k = hook_point(token_axis=-3)
        self.hook_v = hook_point(token_axis=-3)
        self.q_norm, self.k_norm = q_norm, k_norm
        self.hook_attn_scores = hook_point(token_axis=-1)
        self.hook_pattern = hook_point(token_axis=-1)
        self.hook_z = hook_point(NO_TOKENS)
        self.hook_attn_out = hook_point(NO_TOKENS)
        self.ln = ln
        self.mlp = mlp
        if mlp is not None:
            self.hook_mlp_out = hook_point(NO_TOKENS)

    def forward(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch pooled"]:
        q, k, v = self._project(x[:, self.tokens])
        q, k, v = expose(self.hook_q, q), expose(self.hook_k, k), expose(self.hook_v, v)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        watched = self.hook_attn_scores.has_hooks() or self.hook_pattern.has_hooks()
        if self.fused and not watched:
            z = self._attend(q, k, v, valid)
        else:
            scores = self.hook_attn_scores(self._scores(q, k, valid))
            z = einsum(expose(self.hook_pattern, scores.softmax(dim=-1)), v, "b h q t, b t h e -> b q h e")
        out = self.hook_attn_out(self.proj(rearrange(expose(self.hook_z, z), "b 1 h e -> b 1 (h e)")))
        if self.mlp is not None:
            out = out + self.hook_mlp_out(self.mlp(out if self.ln is None else self.ln(out)))
        return out[:, 0]

    def read(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch pooled"]:
        q, k, v = self._normed(x[:, self.tokens])
        return self._with_mlp(self.proj(rearrange(self._attend(q, k, v, valid), "b 1 h e -> b (h e)")))

    def masked(
        self, x: Float[Tensor, "batch tokens d"], mask: Float[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch pooled"]:
        q, k, v = self._normed(x[:, self.tokens])
        pattern = (self._scores(q, k, None) + mask[:, None, None, self.tokens].log()).softmax(dim=-1)
        return self._with_mlp(
            self.proj(rearrange(einsum(pattern, v, "b h q t, b t h e -> b q h e"), "b 1 h e -> b (h e)"))
        )

    def of_one(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch pooled"]:
        # Attention to tokens that are all alike returns their value, whatever the pattern.
        return self._with_mlp(self.proj(self.kv(x).chunk(2, dim=-1)[1]))

    def width(self, d_model: int) -> int:
        return len(self.proj.weight)

    def pattern(self, x: Float[Tensor, "batch tokens d"], valid: Valid = None) -> Float[Tensor, "batch heads read"]:
        """The attention of each head to each token, without passing hook points."""
        q, k, _ = self._normed(x[:, self.tokens])
        return self._scores(q, k, valid).softmax(dim=-1)[:, :, 0]

    def written_by_mlp(
        self, x: Float[Tensor, "batch tokens d"], valid: Valid = None
    ) -> Float[Tensor, "batch pooled"]:  # fmt: skip
        """The part of the pooled vector that is no linear map of the tokens, even with the pattern frozen."""
        q, k, v = self._normed(x[:, self.tokens])
        out = self.proj(rearrange(self._attend(q, k, v, valid), "b 1 h e -> b (h e)"))
        return self._with_mlp(out) - out

    def _project(self, read: Float[Tensor, "batch read d"]) -> tuple[Tensor, Tensor, Tensor]:
        """q [batch, 1, heads, d_head]; k, v [batch, read, heads, d_head]."""
        q = rearrange(self.q(self.latent).expand(len(read), -1, -1), "b t (h e) -> b t h e", h=self.n_heads)
        k, v = rearrange(self.kv(read), "b t (two h e) -> two b t h e", two=2, h=self.n_heads)
        return q, k, v

    def _normed(self, read: Float[Tensor, "batch read d"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._project(read)
        q = q if self.q_norm is None else self.q_norm.normalise(q)
        k = k if self.k_norm is None else self.k_norm.normalise(k)
        return q, k, v

    def _scores(self, q: Tensor, k: Tensor, valid: Valid) -> Float[Tensor, "batch heads 1 read"]:
        scores = einsum(q * q.shape[-1] ** -0.5, k, "b q h e, b t h e -> b h q t")
        return scores if valid is None else scores + self._padding(valid, scores.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, valid: Valid) -> Float[Tensor, "batch 1 heads d_head"]:
        q, k, v = (rearrange(x, "b t h e -> b h t e") for x in (q, k, v))
        mask = None if valid is None else self._padding(valid, q.dtype)
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h t e -> b t h e")

    @staticmethod
    def _padding(valid: Bool[Tensor, "batch read"], dtype: torch.dtype) -> Float[Tensor, "batch 1 1 read"]:
        lowest = torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, torch.finfo(dtype).min)
        return lowest[:, None, None]

    def _with_mlp(self, out: Float[Tensor, "*batch pooled"]) -> Float[Tensor, "*batch pooled"]:
        if self.mlp is None:
            return out
        read = out if self.ln is None else self.ln.normalise(out)
        return out + self.mlp.fc2(self.mlp.act(self.mlp.fc1(read)))

    @property
    def W_V(self) -> Float[Tensor, "heads d d_head"]:
        return rearrange(self._value_map()[0], "(h e) d -> h d e", h=self.n_heads)

    @property
    def b_V(self) -> Float[Tensor, "heads d_head"]:
        return rearrange(self._value_map()[1], "(h e) -> h e", h=self.n_heads)

    @property
    def W_O(self) -> Float[Tensor, "heads d_head pooled"]:
        return rearrange(self.proj.weight, "d (h e) -> h e d", h=self.n_heads)

    @property
    def b_O(self) -> Float[Tensor, "pooled"]:
        return effective_bias(self.proj)

    def _value_map(self) -> tuple[Tensor, Tensor]:
        linear: LinearMap = self.kv
        return linear.weight.chunk(2, dim=0)[1], effective_bias(linear).chunk(2)[1]
