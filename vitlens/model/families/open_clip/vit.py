"""The vision transformer of OpenAI's CLIP and of open_clip: `model.visual`, or the tower of a whole model."""

from collections.abc import Callable
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import activation, layer_norm
from vitlens.model.families.huggingface.towers import projection
from vitlens.model.families.keys import translate
from vitlens.model.families.open_clip.coca import pool_of_coca
from vitlens.model.families.open_clip.settings import preprocessing
from vitlens.model.families.open_clip.whole import of_whole_model
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_sizes

_BLOCK = "transformer.resblocks.{i}."
OPEN_CLIP_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1": "patch_embed.proj",
    "ln_pre": "norm_pre",
    f"{_BLOCK}ln_1": "blocks.{i}.norm1",
    f"{_BLOCK}attn.in_proj_weight": "blocks.{i}.attn.qkv.weight",
    f"{_BLOCK}attn.in_proj_bias": "blocks.{i}.attn.qkv.bias",
    f"{_BLOCK}attn.out_proj": "blocks.{i}.attn.proj",
    f"{_BLOCK}attn.ln_q": "blocks.{i}.attn.q_norm",
    f"{_BLOCK}attn.ln_k": "blocks.{i}.attn.k_norm",
    f"{_BLOCK}attn.ln_inner": "blocks.{i}.attn.norm",
    f"{_BLOCK}ls_1.gamma": "blocks.{i}.ls1.gamma",
    f"{_BLOCK}ln_2": "blocks.{i}.norm2",
    f"{_BLOCK}mlp.c_fc": "blocks.{i}.mlp.fc1",
    f"{_BLOCK}mlp.ln": "blocks.{i}.mlp.norm",
    f"{_BLOCK}mlp.c_proj": "blocks.{i}.mlp.fc2",
    f"{_BLOCK}ls_2.gamma": "blocks.{i}.ls2.gamma",
    "ln_post": "norm",
    "proj": "head.weight",
}


def read_open_clip(state: State, config: Config) -> Recipe:
    """The output is the embedding that is compared with texts: the class token, or the mean of the patches, projected."""
    pool = config.get("pool_type", "tok")
    if pool not in ("tok", "avg"):
        raise InputError(
            f"this tower of open_clip has pool_type={pool!r} and returns tokens: vitlens reads 'tok' and 'avg'"
        )
    ours, rest = translate(state, OPEN_CLIP_NAMES)
    ours["cls_token"], ours["pos_embed"] = ours["cls_token"][None, None], ours["pos_embed"][None]
    parts: dict[str, Callable[[], nn.Module]] = {}
    reading: dict[str, Any] = {"global_pool": "token" if pool == "tok" else "avg"}
    if "attn_pool.query" in rest:
        if pool == "avg":
            raise InputError("this tower of open_clip takes the mean of several pools by attention: vitlens reads one")
        ours, rest, parts = pool_of_coca(ours, rest, config)
        reading = {"global_pool": "map", "pool_include_prefix": True}
    norms_pooled = pool == "avg" and config.get("final_ln_after_pool", False)
    if norms_pooled:
        ours = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: ours[key] for key in ours}
    if "head.weight" in ours:
        ours["head.weight"] = ours["head.weight"].T.contiguous()
    # timm's stem has a bias where no norm follows it, and open_clip's has none.
    parts |= projection(ours) | ({} if "norm_pre.weight" in ours else {"norm_pre": nn.Identity})
    keywords: dict[str, Any] = read_sizes(ours, config.get("image_size")) | {
        # Both libraries make heads of 64 where they are told nothing else.
        "num_heads": config.get("num_attention_heads") or ours["patch_embed.proj.weight"].shape[0] // 64,
        "depth": count_blocks(ours),
        "act_layer": activation(config, "quick_gelu"),
        "norm_layer": layer_norm(config, 1e-5),
        "dtype": own_dtype(ours),
        "pre_norm": True,
        "fc_norm": norms_pooled,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in ours else None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in ours,
        "scale_attn_norm": "blocks.0.attn.norm.weight" in ours,
        "scale_mlp_norm": "blocks.0.mlp.norm.weight" in ours,
    }
    return Recipe(
        VisionTransformer,
        keywords | reading,
        ours | rest,
        parts=parts,
        pretrained_cfg=preprocessing(config),
        assumed=() if "hidden_act" in config else ("quick-GELU, as OpenAI's models have it",),
    )


_MARKS = ("conv1.weight", "class_embedding", "transformer.resblocks.0.attn.in_proj_weight")
CLIP_OF_OPENAI = Family(
    "CLIP (OpenAI, open_clip)",
    tuple(f"visual.{mark}" for mark in _MARKS),
    of_whole_model(read_open_clip),
    model_types=("open_clip",),
    lacks=("visual.attn_pool.probe",),
)
CLIP_OF_OPENAI_TOWER = Family(
    "CLIP's vision tower (OpenAI, open_clip)",
    _MARKS,
    read_open_clip,
    model_types=("open_clip",),
    lacks=("attn_pool.probe",),
)
