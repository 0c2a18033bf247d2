"""Hugging Face's AIMv2: RMSNorm, SwiGLU, and attention pooling whose query is not projected."""

from functools import partial
from typing import Any

from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.layers import AttentionPoolLatent, RmsNorm, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.towers import (
    MEAN_OUTPUT,
    PROJECTION,
    leave_out_other_parts,
    projection,
    tower_config,
)
from vitlens.model.families.huggingface.vit import common_keywords
from vitlens.model.families.keys import translate
from vitlens.model.families.recipe import Recipe

AIMV2_NAMES = PROJECTION | {
    "embeddings.patch_embed": "patch_embed.proj",
    "embeddings.rms_norm": "patch_embed.norm",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers.{i}.rms_norm1": "blocks.{i}.norm1",
    "encoder.layers.{i}.attention.q_proj": "blocks.{i}.attn.qkv#0",
    "encoder.layers.{i}.attention.k_proj": "blocks.{i}.attn.qkv#1",
    "encoder.layers.{i}.attention.v_proj": "blocks.{i}.attn.qkv#2",
    "encoder.layers.{i}.attention.out_proj": "blocks.{i}.attn.proj",
    "encoder.layers.{i}.rms_norm2": "blocks.{i}.norm2",
    "encoder.layers.{i}.ffn.gate_proj": "blocks.{i}.mlp.fc1_g",
    "encoder.layers.{i}.ffn.up_proj": "blocks.{i}.mlp.fc1_x",
    "encoder.layers.{i}.ffn.down_proj": "blocks.{i}.mlp.fc2",
    "rms_norm": "norm",
    "head.cls_token": "attn_pool.latent",
    "head.k_proj": "attn_pool.kv#0",
    "head.v_proj": "attn_pool.kv#1",
    "head.output_proj": "attn_pool.proj",
}


def read_aimv2(state: State, config: Config) -> Recipe:
    """The output is the embedding that attention pooling returns, projected where there is a projection.

    Without pooling it is the mean of the patches.
    """
    config = tower_config(config)
    ours, rest = translate(state, AIMV2_NAMES)
    rest, unused = leave_out_other_parts(rest)
    # Models for pictures of their own proportions compute the positions of each.
    if "pos_embed" in ours:
        ours["pos_embed"] = ours["pos_embed"][None]
    gate = ours["blocks.0.mlp.fc1_g.weight"]
    keywords, assumed = common_keywords(ours | {"blocks.0.mlp.fc1.weight": gate}, config, 1e-5, "silu")
    norm = partial(RmsNorm, eps=config.get("rms_norm_eps", 1e-5))
    pools = "attn_pool.latent" in ours
    keywords |= {
        "norm_layer": norm,
        "fc_norm": False,
        "embed_norm_layer": norm,
        "mlp_layer": SwiGLU,
        "proj_bias": "blocks.0.attn.proj.bias" in ours,
        "global_pool": "map" if pools else "avg",
    }
    pool = {"attn_pool": partial(_pool, len(gate[0]), keywords["num_heads"], "attn_pool.kv.bias" in ours)}
    return Recipe(
        VisionTransformer,
        keywords,
        ours | rest,
        parts=projection(ours) | (pool if pools else {}),
        pretrained_cfg=facts(config, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, "bicubic") | {"output": "embedding"},
        unused=unused,
        assumed=assumed if pools else (*assumed, MEAN_OUTPUT),
    )


def _pool(width: int, n_heads: int, bias: bool) -> nn.Module:
    pool: Any = AttentionPoolLatent(width, num_heads=n_heads, qkv_bias=bias)
    pool.q, pool.mlp = nn.Identity(), None
    return pool


AIMV2 = Family(
    "Hugging Face AIMv2",
    ("embeddings.patch_embed.weight", "embeddings.rms_norm.weight", "encoder.layers.0.ffn.gate_proj.weight"),
    read_aimv2,
    model_types=("aimv2", "aimv2_vision_model"),
)
