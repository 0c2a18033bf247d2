"""Hugging Face's DINOv2, with and without registers."""

from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts
from vitlens.model.families.huggingface.positions import resize_positions
from vitlens.model.families.huggingface.preprocessing import input_size
from vitlens.model.families.huggingface.vit import BLOCK_NAMES, IMAGENET_COLOURS, NAMES_AROUND, common_keywords, meaning
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe
from vitlens.model.porting.other_readings import ClassAndMeanViT

_ATTENTION = "encoder.layer.{i}.attention."
_NAMES = {theirs: ours for theirs, ours in BLOCK_NAMES.items() if theirs.startswith(_ATTENTION)} | {
    "encoder.layer.{i}.norm1": "blocks.{i}.norm1",
    "encoder.layer.{i}.norm2": "blocks.{i}.norm2",
    "encoder.layer.{i}.layer_scale1.lambda1": "blocks.{i}.ls1.gamma",
    "encoder.layer.{i}.layer_scale2.lambda1": "blocks.{i}.ls2.gamma",
    "encoder.layer.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "encoder.layer.{i}.mlp.weights_in": "blocks.{i}.mlp.fc1",
    "encoder.layer.{i}.mlp.weights_out": "blocks.{i}.mlp.fc2",
    "embeddings.register_tokens": "reg_token",
}


def read_dinov2(state: State, config: Config) -> Recipe:
    """The classifier reads the class token and the mean of the patches; without one, the class token is the answer.

    Positions are interpolated at once to the size of the pictures that the preprocessing makes, as Hugging Face does in
    every run.
    """
    ours, rest = translate(state, NAMES_AROUND | _NAMES)
    keywords, assumed = common_keywords(ours, config, 1e-6)
    size = config.get("img_size") or input_size(config) or keywords["img_size"]
    ours, keywords = resize_positions(ours, keywords, size, in_every_run=True, antialias="reg_token" in ours)
    keywords["init_values"] = 1.0
    if any(".mlp.weights_in." in key for key in state):
        keywords |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    if "reg_token" in ours:
        ours, keywords = _without_positions_of_registers(ours, keywords)
    if "reg_token" in ours and not ours["reg_token"].shape[1]:
        del ours["reg_token"]
    rest, unused = leave_out(rest, ("embeddings.mask_token",))
    reads_mean = "head.weight" in ours
    return Recipe(
        ClassAndMeanViT if reads_mean else VisionTransformer,
        keywords if reads_mean else keywords | {"global_pool": "token"},
        ours | rest,
        pretrained_cfg=facts(config, **IMAGENET_COLOURS, interpolation="bicubic") | meaning(ours),
        unused=unused,
        assumed=assumed,
    )


@torch.no_grad()
def _without_positions_of_registers(ours: State, keywords: dict[str, Any]) -> tuple[State, dict[str, Any]]:
    """Registers have no position. timm then adds none to the class token either: its position goes into the token."""
    positions = ours["pos_embed"]
    tokens = {"cls_token": ours["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return ours | tokens, keywords | {"no_embed_class": True, "reg_tokens": ours["reg_token"].shape[1]}


def _family(name: str, model_type: str, *marks: str, lacks: tuple[str, ...] = ()) -> Family:
    first = ("encoder.layer.0.attention.attention.query.weight", "encoder.layer.0.layer_scale1.lambda1")
    return Family(f"Hugging Face {name}", (*first, *marks), read_dinov2, (model_type,), lacks)


DINOV2_WITH_REGISTERS = _family("DINOv2 with registers", "dinov2_with_registers", "embeddings.register_tokens")
DINOV2 = _family("DINOv2", "dinov2", lacks=("embeddings.register_tokens",))
