"""What the vision towers of Hugging Face share, alone or inside a model that has other parts: texts, a language model."""

import re
from collections import Counter
from typing import Any

from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config

#: Of CLIP, SigLIP and Idefics 3.
ENCODER_NAMES = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.position_embedding.weight": "pos_embed",
    "encoder.layers.{i}.layer_norm1": "blocks.{i}.norm1",
    "encoder.layers.{i}.self_attn.q_proj": "blocks.{i}.attn.qkv#0",
    "encoder.layers.{i}.self_attn.k_proj": "blocks.{i}.attn.qkv#1",
    "encoder.layers.{i}.self_attn.v_proj": "blocks.{i}.attn.qkv#2",
    "encoder.layers.{i}.self_attn.out_proj": "blocks.{i}.attn.proj",
    "encoder.layers.{i}.layer_norm2": "blocks.{i}.norm2",
    "encoder.layers.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "encoder.layers.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "post_layernorm": "norm",
    "classifier": "head",
}
#: The joint space of pictures and texts is read off the pooled vector without a bias.
PROJECTION = {"visual_projection": "head"}
#: Parts of models that hold a vision tower among others.
OTHER_PARTS = re.compile(
    r"(?:model\.)?(text_model|text_projection|logit_scale|logit_bias|language_model|lm_head|multi_modal_projector|connector"
    r"|image_newline|embeddings\.position_ids)(?:\.|$)"
)
#: What is said of a model that returns its tokens alone.
MEAN_OUTPUT = "the mean of the patches as its output"
#: Of the configuration of the whole model.
AROUND = ("architectures", "id2label", "problem_type", "preprocessor", "img_size")


def tower_config(config: Config) -> Config:
    """The configuration of the vision tower, where the model has other parts too."""
    tower = config.get("vision_config")
    if tower is None:
        return config
    return {**tower, **{key: config[key] for key in AROUND if key in config}}


def leave_out_other_parts(rest: State) -> tuple[State, tuple[str, ...]]:
    """The tensors that are of no other part of the model, and the names of the parts."""
    parts = {key: match[1] for key in rest if (match := OTHER_PARTS.match(key))}
    counts = Counter(part for part in parts.values() if part != "embeddings.position_ids")
    named = tuple(f"{part} ({n} tensor{'s' if n > 1 else ''})" for part, n in counts.items())
    return {key: tensor for key, tensor in rest.items() if key not in parts}, named


def projection(ours: State) -> dict[str, Any]:
    """A head without a bias, where the tensors have one: a part that takes the place of timm's."""
    if "head.weight" not in ours or "head.bias" in ours:
        return {}
    width_out, width = ours["head.weight"].shape
    return {"head": lambda: nn.Linear(width, width_out, bias=False)}
