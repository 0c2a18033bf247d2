"""From the last residual stream to the classifier: pooling, and the whole way as a linear map with its norms frozen."""

from dataclasses import dataclass

from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from vitlens.model.norm import LayerNorm


def pool(x: Float[Tensor, "batch tokens d"], tokens: slice) -> Float[Tensor, "batch d"]:
    """The mean of the tokens that the classifier reads; a single one is selected, bit for bit as timm does."""
    read = x[:, tokens]
    return read[:, 0] if read.shape[1] == 1 else read.mean(dim=1)


@dataclass(frozen=True)
class LinearReadout:
    """A classifier as a linear map of the last residual stream x, all norm statistics frozen at one run's values.

    logit_c = Σ_t weight_t ⟨direction_c, x_t⟩ + constant_c, exactly; so every term that x is a sum of has its share.
    `weights` [batch, read] belong to the tokens `tokens`, which are all that the classifier reads.
    """

    tokens: slice
    weights: Float[Tensor, "batch read"]
    directions: Float[Tensor, "classes d"]
    constant: Float[Tensor, "batch classes"]

    def pool(self, x: Float[Tensor, "batch tokens ..."]) -> Float[Tensor, "batch ..."]:
        """Σ_t weight_t x_t over the tokens that are read."""
        return einsum(self.weights, x[:, self.tokens], "b t, b t ... -> b ...")

    def __mul__(self, factor: float) -> "LinearReadout":
        """The readout of `factor` times the logits."""
        return LinearReadout(self.tokens, self.weights * factor, self.directions, self.constant * factor)


def linear_readout(
    resid: Float[Tensor, "batch tokens d"],
    tokens: slice,
    ln_final: LayerNorm | None,
    fc_norm: LayerNorm | None,
    unembed: nn.Linear,
) -> LinearReadout:
    """logits = unembed(fc_norm(pool(ln_final(resid)))) as a linear map of resid; either norm may be missing.

    A norm with its scale s frozen is x ↦ weight · (x − mean(x)) / s + bias. Centring and weight are the same for every
    token, so they move into the directions; only 1/s stays with the token.
    """
    read = resid[:, tokens]
    weights = read.new_full((len(read), read.shape[1]), 1 / read.shape[1])
    directions = unembed.weight
    constant = directions.new_zeros(len(read), len(directions))
    if unembed.bias is not None:
        constant = constant + unembed.bias
    if fc_norm is not None:
        pooled = pool(resid if ln_final is None else ln_final(resid), tokens)
        if fc_norm.bias is not None:
            constant = constant + directions @ fc_norm.bias
        weights = weights / fc_norm.scale(pooled)
        directions = fc_norm.pull_back(directions)
    if ln_final is not None:
        if ln_final.bias is not None:
            constant = constant + weights.sum(dim=1, keepdim=True) * (directions @ ln_final.bias)
        weights = weights / ln_final.scale(read).squeeze(-1)
        directions = ln_final.pull_back(directions)
    return LinearReadout(tokens, weights, directions, constant)
