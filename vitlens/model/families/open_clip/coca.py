"""The attention pooling of CoCa in open_clip: the first of its queries gives the embedding, the others are for captions."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config
from vitlens.model.families.huggingface.config import layer_norm
from vitlens.model.porting.narrowing_pool import NarrowingPool


@torch.no_grad()
def pool_of_coca(ours: State, rest: State, config: Config) -> tuple[State, State, dict[str, Callable[[], nn.Module]]]:
    """The tensors by timm's names, those that are not known, and the parts that hold the pooling.

    Args:
        ours: the encoder's tensors by timm's names, with the norm behind the pooling as "norm".
        rest: those of the pooling, among others, by the names of open_clip.
    """
    pool = {key.removeprefix("attn_pool."): tensor for key, tensor in rest.items() if key.startswith("attn_pool.")}
    rest = {key: tensor for key, tensor in rest.items() if not key.startswith("attn_pool.")}
    behind = {key: ours[key] for key in ("norm.weight", "norm.bias")}
    norm = layer_norm(config, 1e-5)
    # The query is normed for every picture alike: timm's query is what its norm returns.
    query = F.layer_norm(
        pool["query"][:1], pool["query"].shape[1:], pool.pop("ln_q.weight"), pool.pop("ln_q.bias"), norm.keywords["eps"]
    )
    del pool["query"]
    if "attn.in_proj_weight" in pool:
        q, k, v = pool.pop("attn.in_proj_weight").chunk(3)
    else:
        q, k, v = (pool.pop(f"attn.{part}_proj_weight") for part in "qkv")
    biases = pool.pop("attn.in_proj_bias")
    found = {
        "attn_pool.latent": query[None],
        "attn_pool.q.weight": q,
        "attn_pool.q.bias": biases[: len(q)],
        "attn_pool.kv.weight": torch.cat([k, v]),
        "attn_pool.kv.bias": biases[len(q) :],
        "attn_pool.proj.weight": pool.pop("attn.out_proj.weight"),
        "attn_pool.proj.bias": pool.pop("attn.out_proj.bias"),
        "norm.weight": pool.pop("ln_k.weight"),
        "norm.bias": pool.pop("ln_k.bias"),
    }
    parts: dict[str, Callable[[], nn.Module]] = {
        "attn_pool": partial(NarrowingPool, k.shape[1], len(q), config.get("attn_pooler_heads") or 8),
        "fc_norm": partial(norm, len(q)),
    }
    unknown = {f"attn_pool.{key}": tensor for key, tensor in pool.items()}
    return ours | found | {f"fc_{key}": tensor for key, tensor in behind.items()}, rest | unknown, parts
