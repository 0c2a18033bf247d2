"""Ports the pooling of timm's models."""

from typing import Any

from timm.layers import AttentionPoolLatent
from torch import nn

from vitlens.errors import InputError
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool, MeanPool, Pool
from vitlens.model.porting.mlp import port_mlp
from vitlens.model.porting.narrowing_pool import NarrowingPool
from vitlens.model.porting.parts import port_linear, port_norm, refuse_other_class, refuse_unknown

#: timm's, and our own "class+mean": the class token and the mean of the patches, one after the other.
POOLS = ("token", "avg", "avgmax", "max", "map", "class+mean")


def port_pool(module: Any, n_prefix_tokens: int, include_prefix: bool) -> Pool:
    """`include_prefix`: whether class and register tokens are pooled with the patches."""
    kind = module.global_pool
    if kind not in POOLS:
        raise InputError(
            f"global_pool={kind!r} is not ported, only {', '.join(POOLS)}: build the timm model with one of these"
        )
    tokens = slice(0 if include_prefix else n_prefix_tokens, None)
    attention_pool = getattr(module, "attn_pool", None)
    if attention_pool is not None:
        return _attention_pool(attention_pool, tokens)
    if kind == "map":
        raise InputError("global_pool is 'map', and the model has no attn_pool: build it with global_pool=\"map\"")
    if kind == "token":
        return MeanPool(slice(0, 1))
    if kind == "class+mean":
        return ClassAndMeanPool(n_prefix_tokens)
    if kind == "avg":
        return MeanPool(tokens)
    return MaxPool(tokens, mean_share=0.5 if kind == "avgmax" else 0.0)


def _attention_pool(pool: Any, tokens: slice) -> AttentionPool:
    refuse_other_class(pool, (AttentionPoolLatent, NarrowingPool), "attn_pool")
    refuse_unknown(pool, {"latent", "q", "kv", "q_norm", "k_norm", "proj", "norm", "mlp"}, "attn_pool")
    if pool.latent_len != 1 or pool.pool != "token":
        raise InputError("attn_pool has several queries, which vitlens does not port: build it with latent_len=1")
    return AttentionPool(
        tokens,
        pool.latent,
        pool.q if isinstance(pool.q, nn.Identity) else port_linear(pool.q, "attn_pool.q"),
        port_linear(pool.kv, "attn_pool.kv"),
        port_linear(pool.proj, "attn_pool.proj"),
        pool.num_heads,
        pool.fused_attn,
        port_norm(pool.q_norm, "attn_pool.q_norm", token_axis=-3),
        port_norm(pool.k_norm, "attn_pool.k_norm", token_axis=-3),
        # timm reads this norm only in front of an MLP.
        None if pool.mlp is None else port_norm(pool.norm, "attn_pool.norm"),
        None if pool.mlp is None else port_mlp(pool.mlp, None, "attn_pool.mlp"),
    )
