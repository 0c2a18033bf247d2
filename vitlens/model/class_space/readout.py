"""The map from the last residual stream to the logits as a linear map: norms and attention of the pooling are frozen."""

from dataclasses import dataclass, field, replace

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.model.class_space.classifier import Classifier, linear_part
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool, MeanPool, Pool, Valid


@dataclass(frozen=True)
class ChosenReadout:
    """The readout of one class (or difference of two) per picture and column.

    logit_ic = Σ_g Σ_t weights_igt ⟨directions_igc, x_it⟩ + constant_ic + Σ terms_ic
    """

    tokens: slice
    weights: Float[Tensor, "image group read"]
    directions: Float[Tensor, "image group class d"]
    constant: Float[Tensor, "image class"]
    terms: dict[str, Float[Tensor, "image class"]]

    def share(self, written: Float[Tensor, "image tokens *unit d"]) -> Float[Tensor, "image class *unit"]:
        """What a term of the last stream contributes to the logit."""
        pooled = torch.einsum("igt,it...->ig...", self.weights, written[:, self.tokens])
        return torch.einsum("igcd,ig...d->ic...", self.directions, pooled)


@dataclass(frozen=True)
class LinearReadout:
    """A classifier as a linear map of the last residual stream x, at one run's statistics.

    logit_c = Σ_g Σ_t weights_gt ⟨directions_gc, x_t⟩ + constant_c + Σ terms_c, exactly. Frozen are the scales of norms,
    the pattern of attention pooling (one group per head), and the places of maxima (one group per feature, since each
    has its own); class token and mean side by side are two groups. `terms` are parts of the logit that are no linear map of
    the stream: the MLP of attention pooling. `weights` belong to the tokens `tokens`, which are all that the classifier
    reads.
    """

    tokens: slice
    weights: Float[Tensor, "batch group read"]
    directions: Float[Tensor, "group classes d"]
    constant: Float[Tensor, "batch classes"]
    terms: dict[str, Float[Tensor, "batch classes"]] = field(default_factory=dict)

    def __mul__(self, factor: float) -> "LinearReadout":
        """The readout of `factor` times the logits."""
        return replace(
            self,
            weights=self.weights * factor,
            constant=self.constant * factor,
            terms={name: term * factor for name, term in self.terms.items()},
        )

    def __call__(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
        """The logits of a stream x whose frozen statistics are those of the run."""
        pooled = einsum(self.weights, x[:, self.tokens], "b g t, b t d -> b g d")
        linear = einsum(self.directions, pooled, "g c d, b g d -> b c")
        return linear + self.constant + sum(self.terms.values())

    def choose(
        self, classes: Int[Tensor, "image class"], baseline: Int[Tensor, "image base"] | None = None
    ) -> ChosenReadout:
        """The readout of these classes' logits, or of their differences to the baseline's."""

        def pick(table: Float[Tensor, "batch classes"]) -> Float[Tensor, "image class"]:
            chosen = table.gather(1, classes)
            return chosen if baseline is None else chosen - table.gather(1, baseline)

        directions = self.directions[:, classes]
        if baseline is not None:
            directions = directions - self.directions[:, baseline]
        return ChosenReadout(
            self.tokens,
            self.weights,
            rearrange(directions, "g i c d -> i g c d"),
            pick(self.constant),
            {name: pick(term) for name, term in self.terms.items()},
        )


@dataclass(frozen=True)
class MaxReadout(LinearReadout):
    """A readout through a maximum over tokens: every token has its own share of every feature.

    `weights` [batch, 1, read] are 1 / scale of the norm before the pooling, `directions` [1, classes, d] are those after the
    pooling, `shares` [batch, read, d] are the share of each token in each feature.
    """

    shares: Float[Tensor, "batch read d"] | None = None
    norm: Norm | None = None

    def __call__(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
        assert self.shares is not None
        read = x[:, self.tokens] if self.norm is None else self.norm.linear_part(x[:, self.tokens])
        pooled = einsum(self.shares, self.weights[:, 0], read, "b t d, b t, b t d -> b d")
        return pooled @ self.directions[0].T + self.constant + sum(self.terms.values())

    def choose(
        self, classes: Int[Tensor, "image class"], baseline: Int[Tensor, "image base"] | None = None
    ) -> ChosenReadout:
        """One group per token: its directions are the classes' directions in the features where it counts."""
        assert self.shares is not None
        plain = super().choose(classes, baseline)
        behind = einsum(plain.directions[:, 0], self.shares, "i c d, i t d -> i t c d")
        n_read = self.shares.shape[1]
        alone = torch.eye(n_read, dtype=self.weights.dtype, device=self.weights.device) * self.weights
        return replace(
            plain, weights=alone, directions=behind if self.norm is None else self.norm.pull_back(behind)
        )  # fmt: skip


def linear_readout(
    resid: Float[Tensor, "batch tokens d"],
    pool: Pool,
    ln_final: Norm | None,
    fc_norm: Norm | None,
    classifier: Classifier,
    valid: Valid = None,
) -> LinearReadout:
    """logits = classifier(fc_norm(pool(ln_final(resid)))) as a linear map of resid; either norm may be missing.

    A norm with its scale s frozen is x ↦ weight · centre(x) / s + bias. Centring and weight are the same for every
    token, so they move into the directions; only 1/s stays with the token.
    """
    normed = resid if ln_final is None else ln_final.normalise(resid)
    read = normed[:, pool.tokens]
    pooled = pool.read(normed, valid)
    directions, factor, constant = linear_part(
        classifier, pooled if fc_norm is None else fc_norm.normalise(pooled)
    )  # fmt: skip
    if fc_norm is not None:
        if fc_norm.bias is not None:
            constant = constant + factor[:, None] * (directions @ fc_norm.bias)
        factor = factor / fc_norm.scale(pooled).squeeze(-1)
        directions = fc_norm.pull_back(directions)
    scale = read.new_ones(read.shape[:2]) if ln_final is None else ln_final.scale(resid[:, pool.tokens]).squeeze(-1)
    shift = None if ln_final is None else ln_final.bias

    if isinstance(pool, MaxPool):
        shares = pool.weights(read, valid)
        if shift is not None:
            constant = constant + factor[:, None] * ((shares.sum(dim=1) * shift) @ directions.T)
        weights = (factor[:, None] / scale)[:, None]
        return MaxReadout(pool.tokens, weights, directions[None], constant, {}, shares, ln_final)

    terms = {}
    if isinstance(pool, AttentionPool):
        weights = pool.pattern(normed, valid) * factor[:, None, None]
        fixed = einsum(pool.b_V, pool.W_O, "h e, h e d -> d") + pool.b_O
        constant = constant + factor[:, None] * (directions @ fixed)
        if pool.mlp is not None:
            terms["pool mlp"] = factor[:, None] * (pool.written_by_mlp(normed, valid) @ directions.T)
        directions = einsum(directions, pool.W_O, pool.W_V, "c d, h e d, h m e -> h c m")
    elif isinstance(pool, ClassAndMeanPool):
        weights = pool.weights(read, valid) * factor[:, None, None]
        directions = rearrange(directions, "c (g d) -> g c d", g=2)
    else:
        assert isinstance(pool, MeanPool)
        weights = (pool.weights(read, valid) * factor[:, None])[:, None]
        directions = directions[None]
    if ln_final is not None:
        if shift is not None:
            constant = constant + einsum(weights, directions, shift, "b g t, g c d, d -> b c")
        weights = weights / scale[:, None]
        directions = ln_final.pull_back(directions)
    return LinearReadout(pool.tokens, weights, directions, constant, terms)
