"""Hugging Face's ViT, and the models that have its names: ViT-MSN, the encoder of ViT-MAE, I-JEPA."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family, without_prefix
from vitlens.model.families.huggingface.config import activation, facts, layer_norm
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_heads, read_sizes

#: Of the blocks of ViT, DeiT, ViT-MSN, ViT-MAE and I-JEPA.
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
#: Around the blocks of these, and of DINOv2.
NAMES_AROUND = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
#: What only masked training reads.
TRAINING_ALONE = ("embeddings.mask_token", "decoder.")
IMAGENET_COLOURS = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


def common_keywords(
    ours: State, config: Config, eps: float, act: str = "gelu"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keywords of timm's classes from tensors by timm's names, and what had to be assumed.

    Args:
        eps, act: of the layer norms, and the activation, where there is no configuration.
    """
    n_heads, assumed = read_heads(ours, config)
    if "hidden_act" not in config:
        # Weights show neither: a model that was trained with others would be opened as one that computes something else.
        assumed += (f"activation {act} and eps {eps:g}, as published",)
    keywords = read_sizes(ours, config.get("image_size")) | {
        "num_heads": n_heads,
        "depth": count_blocks(ours),
        "norm_layer": layer_norm(config, eps),
        "act_layer": activation(config, act),
        "dtype": own_dtype(ours),
    }
    return keywords, assumed


def read_vit(
    state: State, config: Config, eps: float = 1e-12, pool: str = "token", published: Mapping[str, Any] | None = None
) -> Recipe:
    """The encoder, with its pooler or classifier.

    Args:
        eps: of the layer norms, where there is no configuration.
        pool: what the classifier reads: the class token, or the mean of the patches.
        published: the preprocessing with which the family was published, where it is not ViT's.
    """
    ours, rest = translate(state, BLOCK_NAMES | NAMES_AROUND | pooler_names(state, pool))
    keywords, assumed = common_keywords(ours, config, eps)
    ours, keywords = resize_positions(ours, keywords, config.get("img_size"))
    rest, unused = leave_out(rest, (*TRAINING_ALONE, *(("pooler.",) if "head.weight" in ours else ())))
    return Recipe(
        VisionTransformer,
        keywords | {"global_pool": pool, "fc_norm": False},
        ours | rest,
        parts=pooler(ours, config),
        pretrained_cfg=facts(config, **(published or {})) | meaning(ours),
        unused=unused,
        assumed=assumed,
    )


def pooler_names(state: State, pool: str = "token") -> dict[str, str]:
    """A pooler is the answer where no classifier is; it reads the class token."""
    return {"pooler.dense": "head.dense"} if pool == "token" and "classifier.weight" not in state else {}


def pooler(ours: State, config: Config) -> dict[str, Callable[[], nn.Module]]:
    """A linear map and an activation in place of timm's head, where the tensors are those of a pooler."""
    if "head.dense.weight" not in ours:
        return {}
    width_out, width = ours["head.dense.weight"].shape

    def head() -> nn.Module:
        act = activation(config, "tanh", of="pooler_act")
        return nn.Sequential(OrderedDict(dense=nn.Linear(width, width_out), activation=act()))

    return {"head": head}


def meaning(ours: State) -> dict[str, str]:
    """What a model without a classifier says of its output."""
    return {} if any(key.startswith(("head.weight", "head_dist.")) for key in ours) else {"output": "embedding"}


def _family(name: str, model_type: str, **published: Any) -> Family:
    return Family(f"Hugging Face {name}", _MARKS, partial(read_vit, **published), (model_type,), _LACKS)


_MARKS = (
    "encoder.layer.0.attention.attention.query.weight",
    "embeddings.cls_token",
    "encoder.layer.0.layernorm_before.weight",
)
_LACKS = ("encoder.layer.0.lambda_1", "embeddings.distillation_token")
VIT = _family("ViT", "vit")
VIT_MSN = _family("ViT-MSN", "vit_msn", eps=1e-6, published=IMAGENET_COLOURS)
#: transformers 5 saves the classifier of ViT-MSN with the prefix of its encoder on a part of the names alone.
VIT_MSN_SAVED_BY_5 = Family(
    VIT_MSN.name,
    ("encoder.layer.0.attention.attention.query.weight", "vit.embeddings.cls_token"),
    lambda state, config: VIT_MSN.read(without_prefix(state, "vit."), config),
    VIT_MSN.model_types,
)
VIT_MAE = _family("ViT-MAE", "vit_mae", published=IMAGENET_COLOURS | {"interpolation": "bicubic"})
I_JEPA = Family(
    "Hugging Face I-JEPA",
    ("encoder.layer.0.attention.attention.query.weight", "embeddings.position_embeddings"),
    partial(read_vit, pool="avg", published=IMAGENET_COLOURS),
    model_types=("ijepa",),
    lacks=(*_LACKS, "embeddings.cls_token"),
)
