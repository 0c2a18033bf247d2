"""torchvision's VisionTransformer."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import activation, layer_norm
from vitlens.model.families.huggingface.vit import IMAGENET_COLOURS
from vitlens.model.families.keys import translate
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_heads, read_sizes

ENCODER_LAYER = "encoder.layers.encoder_layer_{i}."
TORCHVISION_NAMES = {
    "class_token": "cls_token",
    "conv_proj": "patch_embed.proj",
    "encoder.pos_embedding": "pos_embed",
    f"{ENCODER_LAYER}ln_1": "blocks.{i}.norm1",
    f"{ENCODER_LAYER}self_attention.in_proj_weight": "blocks.{i}.attn.qkv.weight",
    f"{ENCODER_LAYER}self_attention.in_proj_bias": "blocks.{i}.attn.qkv.bias",
    f"{ENCODER_LAYER}self_attention.out_proj": "blocks.{i}.attn.proj",
    f"{ENCODER_LAYER}ln_2": "blocks.{i}.norm2",
    f"{ENCODER_LAYER}mlp.0": "blocks.{i}.mlp.fc1",
    f"{ENCODER_LAYER}mlp.3": "blocks.{i}.mlp.fc2",
    # Before version 0.13.
    f"{ENCODER_LAYER}mlp.linear_1": "blocks.{i}.mlp.fc1",
    f"{ENCODER_LAYER}mlp.linear_2": "blocks.{i}.mlp.fc2",
    "encoder.ln": "norm",
    "heads.head": "head",
    # A classifier in the place of all heads.
    "heads": "head",
}
#: Of the transforms that torchvision gives with its weights: resized to 256, cropped to 224.
TORCHVISION_TRANSFORMS = {
    **IMAGENET_COLOURS,
    "interpolation": "bilinear",
    "crop_pct": 224 / 256,
    "crop_mode": "center",
}


def read_torchvision_vit(state: State, config: Config) -> Recipe:
    """The classifier reads the class token."""
    ours, rest = translate(state, TORCHVISION_NAMES)
    n_heads, assumed = read_heads(ours, config)
    keywords: dict[str, Any] = read_sizes(ours) | {
        "num_heads": n_heads,
        "depth": count_blocks(ours),
        "norm_layer": layer_norm(config, 1e-6),
        "act_layer": activation(config),
        "dtype": own_dtype(ours),
    }
    return Recipe(VisionTransformer, keywords, ours | rest, pretrained_cfg=TORCHVISION_TRANSFORMS, assumed=assumed)


TORCHVISION_VIT = Family(
    "torchvision VisionTransformer",
    ("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", "class_token", "conv_proj.weight"),
    read_torchvision_vit,
)
