"""The map from the last residual stream to the logits as a linear map: norms and attention of the pooling are frozen."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.model.class_space.classifier import (
    Classifier,
    LinearPart,
    frozen_rows,
    kind_of,
    linear_part,
    n_outputs,
    plain_logits,
)
from vitlens.model.class_space.layered import LINEAR, NONLINEAR
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool, MeanPool, Pool, Valid


@dataclass(frozen=True)
class ChosenReadout:
    """The readout of one class (or difference of two) per picture and column.

    logit_ic = Σ_g Σ_t weights_igt ⟨directions_igc, x_it⟩ + constant_ic + Σ terms_ic
    """

    tokens: slice
    weights: Float[Tensor, "image group read"]
    directions: Float[Tensor, "#image group class d"]
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
        return self._chosen(rearrange(directions, "g i c d -> i g c d"), pick)

    def every(self) -> ChosenReadout:
        """The readout of all classes. Where all pictures share the directions, their axis of images has length 1."""
        return self._chosen(rearrange(self.directions, "g c d -> 1 g c d"), lambda table: table)

    def combine(self, rows: Float[Tensor, "image class classes"]) -> ChosenReadout:
        """The readout of sums over this one's classes, with weights of each picture's own."""

        def pick(table: Float[Tensor, "batch classes"]) -> Float[Tensor, "image class"]:
            return einsum(rows, table, "i c k, i k -> i c")

        return self._chosen(einsum(rows, self.directions, "i c k, g k d -> i g c d"), pick)

    def _chosen(
        self, directions: Float[Tensor, "image group class d"], pick: Callable[[Tensor], Tensor]
    ) -> ChosenReadout:
        terms = {name: pick(term) for name, term in self.terms.items()}
        return ChosenReadout(self.tokens, self.weights, directions, pick(self.constant), terms)

    @property
    def numbers_per_class(self) -> int:
        """How many numbers the directions of one class and picture have."""
        return self.directions[:, 0].numel()


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

    def _chosen(
        self, directions: Float[Tensor, "image group class d"], pick: Callable[[Tensor], Tensor]
    ) -> ChosenReadout:
        """One group per token: its directions are the classes' directions in the features where it counts."""
        assert self.shares is not None
        behind = einsum(directions[:, 0], self.shares, "i c d, i t d -> i t c d")
        n_read = self.shares.shape[1]
        alone = torch.eye(n_read, dtype=self.weights.dtype, device=self.weights.device) * self.weights
        directions = behind if self.norm is None else self.norm.pull_back(behind)
        return ChosenReadout(self.tokens, alone, directions, pick(self.constant), {})

    @property
    def numbers_per_class(self) -> int:
        assert self.shares is not None
        return super().numbers_per_class * self.shares.shape[1]


@dataclass(frozen=True)
class FrozenReadout:
    """A classifier that is no single matrix, as the linear map that it is at each picture's point.

    logit_c = ⟨J_c, x⟩ + rest_c, J the gradient at the x that the classifier reads, what divides in its norms frozen, and x a
    linear map of the stream. The rest is a constant where norms are all that is not linear, else a term of its own,
    "classifier rest".
    """

    read: LinearReadout
    classifier: Classifier
    x: Float[Tensor, "batch features"]
    factor: float = 1.0

    def __mul__(self, factor: float) -> "FrozenReadout":
        """The readout of `factor` times the logits."""
        return replace(self, factor=self.factor * factor)

    def __call__(self, x: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
        """The logits of a stream x whose frozen statistics are those of the run."""
        chosen = self.every()
        return chosen.share(x) + chosen.constant + sum(chosen.terms.values())

    def every(self) -> ChosenReadout:
        """As that of a linear readout."""
        return self.choose(torch.arange(n_outputs(self.classifier), device=self.x.device).expand(len(self.x), -1))

    def choose(
        self, classes: Int[Tensor, "image class"], baseline: Int[Tensor, "image base"] | None = None
    ) -> ChosenReadout:
        """As that of a linear readout."""
        rows, logits = self._at(classes)
        if baseline is not None:
            of_baseline = self._at(baseline)
            rows, logits = rows - of_baseline[0], logits - of_baseline[1]
        chosen = self.read.combine(rows)
        rest = logits - einsum(rows, self.x, "i c k, i k -> i c")
        if kind_of(self.classifier) == NONLINEAR:
            return replace(chosen, terms={**chosen.terms, "classifier rest": rest})
        return replace(chosen, constant=chosen.constant + rest)

    def _at(
        self, classes: Int[Tensor, "image class"]
    ) -> tuple[Float[Tensor, "image class features"], Float[Tensor, "image class"]]:
        """The gradients and the logits of these classes."""
        logits = plain_logits(self.classifier, self.x).gather(1, classes)
        return frozen_rows(self.classifier, self.x, classes) * self.factor, logits * self.factor

    @property
    def numbers_per_class(self) -> int:
        return self.read.numbers_per_class


Readout = LinearReadout | FrozenReadout


def linear_readout(
    resid: Float[Tensor, "batch tokens d"],
    pool: Pool,
    ln_final: Norm | None,
    fc_norm: Norm | None,
    classifier: Classifier,
    valid: Valid = None,
) -> Readout:
    """logits = classifier(fc_norm(pool(ln_final(resid)))) as a linear map of resid; either norm may be missing.

    A norm with its scale s frozen is x ↦ weight · centre(x) / s + bias. Centring and weight are the same for every
    token, so they move into the directions; only 1/s stays with the token.
    """
    normed = resid if ln_final is None else ln_final.normalise(resid)
    pooled = pool.read(normed, valid)
    x = pooled if fc_norm is None else fc_norm.normalise(pooled)
    if kind_of(classifier) != LINEAR:
        # As a linear map of the stream, what the classifier reads: each feature in the place of a class.
        itself = LinearPart(
            torch.eye(x.shape[1], dtype=x.dtype, device=x.device), x.new_ones(len(x)), torch.zeros_like(x)
        )
        return FrozenReadout(_readout_of(itself, resid, normed, pooled, pool, ln_final, fc_norm, valid), classifier, x)
    part = linear_part(classifier, x)
    return _readout_of(part, resid, normed, pooled, pool, ln_final, fc_norm, valid)


def _readout_of(
    part: LinearPart,
    resid: Float[Tensor, "batch tokens d"],
    normed: Float[Tensor, "batch tokens d"],
    pooled: Float[Tensor, "batch pooled"],
    pool: Pool,
    ln_final: Norm | None,
    fc_norm: Norm | None,
    valid: Valid,
) -> LinearReadout:
    """A linear map behind norms and pooling as a linear map of the stream."""
    read = normed[:, pool.tokens]
    directions, factor, constant = part
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
