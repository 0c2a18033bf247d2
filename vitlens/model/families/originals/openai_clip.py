"""The vision tower in the files of OpenAI's CLIP."""

import re
from typing import Any

import torch
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import activation, layer_norm
from vitlens.model.families.keys import translate
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_sizes

RESBLOCK = "transformer.resblocks.{i}."
TOWER_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    f"{RESBLOCK}ln_1": "blocks.{i}.norm1",
    f"{RESBLOCK}attn.in_proj_weight": "blocks.{i}.attn.qkv.weight",
    f"{RESBLOCK}attn.in_proj_bias": "blocks.{i}.attn.qkv.bias",
    f"{RESBLOCK}attn.out_proj": "blocks.{i}.attn.proj",
    f"{RESBLOCK}ln_2": "blocks.{i}.norm2",
    f"{RESBLOCK}mlp.c_fc": "blocks.{i}.mlp.fc1",
    f"{RESBLOCK}mlp.c_proj": "blocks.{i}.mlp.fc2",
    "ln_post": "norm",
    "proj": "head.weight",
}
#: Tensors of the tower of text, and of the comparison of both.
OF_TEXT = re.compile(
    r"(transformer|token_embedding|ln_final)\..*|text_projection|positional_embedding|logit_scale"
    r"|input_resolution|context_length|vocab_size"
)
CLIP_COLOURS = {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD, "interpolation": "bicubic", "crop_pct": 1.0}


def read_openai_clip(state: State, config: Config) -> Recipe:
    """The output is the projection of the class token: the embedding that CLIP compares with texts."""
    ours, rest = translate(state, TOWER_NAMES)
    ours["cls_token"] = ours["cls_token"].reshape(1, 1, -1)
    ours["pos_embed"] = ours["pos_embed"].unsqueeze(0)
    if "head.weight" in ours:
        ours["head.weight"] = ours["head.weight"].T.contiguous()
        ours["head.bias"] = torch.zeros_like(ours["head.weight"][:, 0])
    keywords: dict[str, Any] = read_sizes(ours) | {
        # As OpenAI's code has it.
        "num_heads": config.get("num_attention_heads") or ours["patch_embed.proj.weight"].shape[0] // 64,
        "depth": count_blocks(ours),
        "pre_norm": True,
        "norm_layer": layer_norm(config, 1e-5),
        "act_layer": activation(config, "quick_gelu"),
        "dtype": own_dtype(ours),
    }
    told = "hidden_act" in config
    return Recipe(
        VisionTransformer,
        keywords,
        ours | rest,
        pretrained_cfg=CLIP_COLOURS | {"output": "embedding"},
        assumed=() if told else ("quick-GELU, as OpenAI's models have it",),
    )


def read_whole_clip(state: State, config: Config) -> Recipe:
    """The tower that sees, of a file with the tower that reads too."""
    tower = {key.removeprefix("visual."): tensor for key, tensor in state.items() if key.startswith("visual.")}
    others = {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}
    recipe = read_openai_clip(tower, config)
    text = tuple(key for key in others if OF_TEXT.fullmatch(key))
    unknown = {key: tensor for key, tensor in others.items() if key not in text}
    return Recipe(
        recipe.kind,
        recipe.keywords,
        {**recipe.state, **unknown},
        pretrained_cfg=recipe.pretrained_cfg,
        unused=("the tower of text",) if text else (),
        assumed=recipe.assumed,
    )


CLIP_MARKS = ("transformer.resblocks.0.attn.in_proj_weight", "class_embedding", "conv1.weight", "ln_pre.weight")
OPENAI_CLIP = Family(
    "CLIP (OpenAI)",
    tuple(f"visual.{mark}" for mark in CLIP_MARKS),
    read_whole_clip,
    lacks=("visual.attn_pool.probe",),
)
OPENAI_CLIP_TOWER = Family("CLIP's vision tower (OpenAI)", CLIP_MARKS, read_openai_clip, lacks=("attn_pool.probe",))
