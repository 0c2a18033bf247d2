"""Hugging Face's InternVL: its vision tower, alone or inside the whole model."""

from functools import partial

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import RmsNorm
from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts, require_promised
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.huggingface.towers import MEAN_OUTPUT, leave_out_other_parts, tower_config
from vitlens.model.families.huggingface.vit import common_keywords
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe
from vitlens.model.porting.over_heads import QueryNormOverHeads

INTERNVL_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.{i}.layernorm_before": "blocks.{i}.norm1",
    "encoder.layer.{i}.attention.q_proj": "blocks.{i}.attn.qkv#0",
    "encoder.layer.{i}.attention.k_proj": "blocks.{i}.attn.qkv#1",
    "encoder.layer.{i}.attention.v_proj": "blocks.{i}.attn.qkv#2",
    "encoder.layer.{i}.attention.q_norm.weight": "blocks.{i}.attn.q_norm.weight",
    "encoder.layer.{i}.attention.k_norm.weight": "blocks.{i}.attn.k_norm.weight",
    "encoder.layer.{i}.attention.projection_layer": "blocks.{i}.attn.proj",
    "encoder.layer.{i}.lambda_1": "blocks.{i}.ls1.gamma",
    "encoder.layer.{i}.layernorm_after": "blocks.{i}.norm2",
    "encoder.layer.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "encoder.layer.{i}.lambda_2": "blocks.{i}.ls2.gamma",
    "layernorm": "norm",
}


def read_internvl(state: State, config: Config) -> Recipe:
    """The output is an embedding: the normed class token where there is a last norm, the mean of the patches elsewhere.

    The language model of InternVL reads the patches after the last block.
    """
    config = tower_config(config)
    ours, rest = translate(state, INTERNVL_NAMES)
    rest, unused = leave_out_other_parts(rest)
    rest, untrained = leave_out(rest, ("embeddings.mask_token",))
    require_promised(ours, config, {"use_absolute_position_embeddings": "pos_embed"})
    keywords, assumed = common_keywords(ours, config, 1e-6)
    if "blocks.0.norm1.bias" not in ours:
        keywords["norm_layer"] = partial(RmsNorm, eps=config.get("layer_norm_eps", 1e-6))
    heads = keywords["num_heads"], keywords["embed_dim"] // keywords["num_heads"]
    normed = [key for key in ours if key.endswith(("q_norm.weight", "k_norm.weight"))]
    ours = ours | {key: ours[key].reshape(heads) for key in normed}
    has_norm = "norm.weight" in ours
    if "pos_embed" in ours:
        ours, keywords = resize_positions(ours, keywords, config.get("img_size"))
    keywords |= {
        "fc_norm": False,
        "init_values": 1.0,
        "final_norm": has_norm,
        "global_pool": "token" if has_norm else "avg",
        "pos_embed": "learn" if "pos_embed" in ours else "none",
    }
    colours = facts(config, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "bicubic")
    return Recipe(
        VisionTransformer,
        keywords,
        ours | rest,
        parts={key.removesuffix(".weight"): partial(QueryNormOverHeads, *heads) for key in normed},
        pretrained_cfg={"crop_mode": "squash"} | colours | {"output": "embedding"},
        unused=unused + untrained,
        assumed=assumed if has_norm else (*assumed, MEAN_OUTPUT),
    )


INTERNVL = Family(
    "Hugging Face InternVL",
    (
        "embeddings.cls_token",
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layer.0.attention.q_proj.weight",
        "encoder.layer.0.lambda_1",
    ),
    read_internvl,
    model_types=("internvl", "internvl_vision"),
)
