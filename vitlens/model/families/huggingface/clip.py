"""Hugging Face's CLIP: its vision tower alone, with the projection, with a classifier, or inside other models."""

from typing import Any

from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.huggingface.towers import (
    ENCODER_NAMES,
    PROJECTION,
    leave_out_other_parts,
    projection,
    tower_config,
)
from vitlens.model.families.huggingface.vit import common_keywords
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe

CLIP_NAMES = ENCODER_NAMES | PROJECTION | {"embeddings.class_embedding": "cls_token", "pre_layrnorm": "norm_pre"}


def read_clip(state: State, config: Config) -> Recipe:
    """The output is the embedding of the normed class token, projected where there is a projection.

    A classifier reads the mean of the patches, before the last norm.
    """
    config = tower_config(config)
    ours, rest = translate(state, CLIP_NAMES)
    ours["cls_token"], ours["pos_embed"] = ours["cls_token"][None, None], ours["pos_embed"][None]
    rest, unused = leave_out_other_parts(rest)
    keywords, assumed = common_keywords(ours, config, 1e-5, "quick_gelu")
    ours, keywords = resize_positions(ours, keywords | {"pre_norm": True}, config.get("img_size"))
    meaning: dict[str, Any] = {"output": "embedding"}
    if "head.bias" in ours:
        ours, unread = leave_out(ours, ("norm.",))
        unused += tuple(f"post_layernorm{name.removeprefix('norm')}" for name in unread)
        keywords |= {"global_pool": "avg", "final_norm": False}
        meaning = {}
    return Recipe(
        VisionTransformer,
        keywords,
        ours | rest,
        parts=projection(ours),
        pretrained_cfg=facts(config, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, "bicubic") | meaning,
        unused=unused,
        assumed=assumed,
    )


CLIP = Family(
    "Hugging Face CLIP",
    (
        "embeddings.class_embedding",
        "pre_layrnorm.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.self_attn.q_proj.weight",
    ),
    read_clip,
    model_types=("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
)
