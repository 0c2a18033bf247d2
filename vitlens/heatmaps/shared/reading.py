"""The weight of each token in the pooled representation, from which attention is followed backwards."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool, MeanPool, Pool


def read_weights(model: HookedViT, resid: Float[Tensor, "image tokens d"]) -> Float[Tensor, "image tokens"]:
    """The share of every token in the pooled vector, from the last residual stream; each row sums to 1.

    1 for the class token that alone is read; 1/n for each of n averaged tokens; ½ and ½ for the two tokens of a distilled
    model, and ½ and ½/n for class token and patches side by side; the pool's pattern, averaged over its heads, for
    attention pooling; for a maximum over tokens the share of
    features in which the token is the largest.
    """
    with torch.no_grad():
        normed = resid if model.ln_final is None else model.ln_final.normalise(resid)
        pools = [pool for pool in (model.pool, model.pool_dist) if pool is not None]
        return torch.stack([_weights(pool, normed) for pool in pools]).mean(dim=0)


def _weights(pool: Pool, normed: Float[Tensor, "image tokens d"]) -> Float[Tensor, "image tokens"]:
    read = normed[:, pool.tokens]
    if isinstance(pool, AttentionPool):
        shares = pool.pattern(normed).mean(dim=1)
    elif isinstance(pool, MaxPool):
        shares = pool.weights(read).mean(dim=-1)
    elif isinstance(pool, ClassAndMeanPool):
        shares = pool.weights(read).mean(dim=1)
    else:
        assert isinstance(pool, MeanPool)
        shares = pool.weights(read)
    weights = normed.new_zeros(normed.shape[:2])
    weights[:, pool.tokens] = shares
    return weights
