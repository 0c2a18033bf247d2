"""Hugging Face's SigLIP: its vision tower, with and without attention pooling or a classifier; and that of Idefics 3."""

from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.huggingface.towers import (
    ENCODER_NAMES,
    MEAN_OUTPUT,
    leave_out_other_parts,
    tower_config,
)
from vitlens.model.families.huggingface.vit import common_keywords
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe

POOL_NAMES = {
    "head.probe": "attn_pool.latent",
    "head.attention.in_proj_weight": "attn_pool.qkv.weight",
    "head.attention.in_proj_bias": "attn_pool.qkv.bias",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}
SIGLIP_NAMES = ENCODER_NAMES | POOL_NAMES


def read_siglip(state: State, config: Config, interpolates: bool = True) -> Recipe:
    """The output is what attention pooling returns; without it, and for a classifier, it is the mean of patches.

    Args:
        interpolates: whether positions are interpolated for pictures of another size. Idefics 3 takes the nearest ones.
    """
    config = tower_config(config)
    ours, rest = translate(state, SIGLIP_NAMES)
    rest, unused = leave_out_other_parts(rest)
    ours, reading, unread = read_pooling(ours)
    ours["pos_embed"] = ours["pos_embed"][None]
    keywords, assumed = common_keywords(ours, config, 1e-6, "gelu_pytorch_tanh")
    if interpolates:
        ours, keywords = resize_positions(ours, keywords, config.get("img_size"))
    return Recipe(
        VisionTransformer,
        keywords | {"global_pool": reading, "fc_norm": False},
        ours | rest,
        pretrained_cfg=siglip_facts(config, "head.weight" in ours),
        unused=unused + unread,
        assumed=assumed if reading == "map" or "head.weight" in ours else (*assumed, MEAN_OUTPUT),
    )


def read_pooling(ours: State) -> tuple[State, str, tuple[str, ...]]:
    """The tensors with those of attention pooling by timm's names, timm's name of the pooling, and what is not read."""
    unread: tuple[str, ...] = ()
    if "head.weight" in ours:
        ours, unread = leave_out(ours, ("attn_pool.",))
        unread = (f"head ({len(unread)} tensors)",) if unread else ()
    if "attn_pool.latent" not in ours:
        return ours, "avg", unread
    split = dict(ours)
    for tensor in ("weight", "bias"):
        packed = split.pop(f"attn_pool.qkv.{tensor}")
        n = len(packed) // 3
        split |= {f"attn_pool.q.{tensor}": packed[:n], f"attn_pool.kv.{tensor}": packed[n:]}
    return split, "map", unread


def siglip_facts(config: Config, is_classifier: bool) -> dict[str, Any]:
    """What a timm module carries in `pretrained_cfg`; SigLIP changes the proportions of pictures that are no squares."""
    found = {"crop_mode": "squash"} | facts(config, interpolation="bicubic")
    return found if is_classifier else found | {"output": "embedding"}


SIGLIP_MARKS = (
    "embeddings.patch_embedding.bias",
    "embeddings.position_embedding.weight",
    "post_layernorm.weight",
    "encoder.layers.0.self_attn.q_proj.weight",
)
SIGLIP_LACKS = ("embeddings.class_embedding", "pre_layrnorm.weight")
SIGLIP = Family(
    "Hugging Face SigLIP", SIGLIP_MARKS, read_siglip, model_types=("siglip", "siglip_vision_model"), lacks=SIGLIP_LACKS
)
IDEFICS_3 = Family(
    "Hugging Face Idefics 3",
    SIGLIP_MARKS,
    partial(read_siglip, interpolates=False),
    model_types=("idefics3", "idefics3_vision"),
    lacks=SIGLIP_LACKS,
)
