"""Hugging Face's ViT: also DeiT, ViT-MSN and the encoder of ViT-MAE, which have its names."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import activation, facts, layer_norm
from vitlens.model.families.keys import translate
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_heads, read_sizes

#: Of the blocks of ViT, DeiT, ViT-MSN and ViT-MAE.
BLOCK_NAMES = {
    "encoder.layer.{i}.layernorm_before": "blocks.{i}.norm1",
    "encoder.layer.{i}.attention.attention.query": "blocks.{i}.attn.qkv#0",
    "encoder.layer.{i}.attention.attention.key": "blocks.{i}.attn.qkv#1",
    "encoder.layer.{i}.attention.attention.value": "blocks.{i}.attn.qkv#2",
    "encoder.layer.{i}.attention.output.dense": "blocks.{i}.attn.proj",
    "encoder.layer.{i}.layernorm_after": "blocks.{i}.norm2",
    "encoder.layer.{i}.intermediate.dense": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.output.dense": "blocks.{i}.mlp.fc2",
}
NAMES = BLOCK_NAMES | {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}


def read_vit(state: State, config: Config) -> Recipe:
    """ViTModel without its pooler, and ViTForImageClassification: the classifier reads the class token."""
    ours, rest = translate(state, NAMES)
    n_heads, assumed = read_heads(ours, config)
    keywords: dict[str, Any] = read_sizes(ours) | {
        "num_heads": n_heads,
        "depth": count_blocks(ours),
        "norm_layer": layer_norm(config, 1e-12),
        "act_layer": activation(config),
        "dtype": own_dtype(ours),
    }
    return Recipe(
        VisionTransformer,
        keywords,
        ours | rest,
        pretrained_cfg=facts(config),
        assumed=assumed,
    )


VIT = Family(
    "Hugging Face ViT",
    (
        "encoder.layer.0.attention.attention.query.weight",
        "embeddings.cls_token",
        "encoder.layer.0.layernorm_before.weight",
    ),
    read_vit,
    model_types=("vit",),
    lacks=("encoder.layer.0.lambda_1", "embeddings.distillation_token"),
)
