"""Hugging Face's BEiT and Data2Vec-vision: relative positions, of each block or shared by all."""

from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.beit import Beit
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import facts, require_promised
from vitlens.model.families.huggingface.positions import patches_of_size, resize_positions
from vitlens.model.families.huggingface.vit import BLOCK_NAMES, NAMES_AROUND, TRAINING_ALONE, common_keywords, meaning
from vitlens.model.families.keys import leave_out, translate
from vitlens.model.families.recipe import Recipe

_QUERY, _KEY, _VALUE = (f"encoder.layer.{{i}}.attention.attention.{name}" for name in ("query", "key", "value"))
_TABLE = "relative_position_bias_table"
_NAMES = {theirs: ours for theirs, ours in BLOCK_NAMES.items() if theirs not in (_QUERY, _KEY, _VALUE)} | {
    # Keys have no bias, so timm keeps the biases apart from the matrices.
    f"{_QUERY}.weight": "blocks.{i}.attn.qkv.weight#0",
    f"{_KEY}.weight": "blocks.{i}.attn.qkv.weight#1",
    f"{_VALUE}.weight": "blocks.{i}.attn.qkv.weight#2",
    f"{_QUERY}.bias": "blocks.{i}.attn.q_bias",
    f"{_VALUE}.bias": "blocks.{i}.attn.v_bias",
    "encoder.layer.{i}.lambda_1": "blocks.{i}.gamma_1",
    "encoder.layer.{i}.lambda_2": "blocks.{i}.gamma_2",
    f"encoder.layer.{{i}}.attention.attention.relative_position_bias.{_TABLE}": f"blocks.{{i}}.attn.{_TABLE}",
    f"encoder.relative_position_bias.{_TABLE}": f"rel_pos_bias.{_TABLE}",
    "pooler.layernorm": "fc_norm",
}

_PROMISED = {
    "use_absolute_position_embeddings": "pos_embed",
    "use_relative_position_bias": f"blocks.0.attn.{_TABLE}",
    "use_shared_relative_position_bias": f"rel_pos_bias.{_TABLE}",
}


def read_beit(state: State, config: Config) -> Recipe:
    """The classifier reads the normed mean of the patches, or the normed class token."""
    ours, rest = translate(state, NAMES_AROUND | _NAMES)
    keywords, assumed = common_keywords(ours, _read_off_tables(ours) | dict(config), 1e-12)
    require_promised(ours, config, _PROMISED)
    own_grid = patches_of_size(keywords["img_size"], keywords["patch_size"])
    if "pos_embed" in ours:
        ours, keywords = resize_positions(ours, keywords, config.get("img_size"))
    elif config.get("img_size"):
        keywords |= {"img_size": tuple(config["img_size"])}
    grid = patches_of_size(keywords["img_size"], keywords["patch_size"])
    ours |= {name: resize_table(table, own_grid, grid) for name, table in ours.items() if name.endswith(_TABLE)}
    # Without its pooler a model that takes the mean of the patches has no norm at the end.
    mean = "norm.weight" not in ours
    parts: dict[str, Any] = {} if not mean or "fc_norm.weight" in ours else {"fc_norm": nn.Identity}
    act = keywords.pop("act_layer")
    if act is not nn.GELU:
        parts |= {f"blocks.{i}.mlp.act": act for i in range(keywords["depth"])}
    rest, unused = leave_out(rest, (*TRAINING_ALONE, "lm_head."))
    # Which distance two patches have follows from the grid; older files hold it as a tensor.
    rest = {name: tensor for name, tensor in rest.items() if not name.endswith("relative_position_index")}
    return Recipe(
        Beit,
        {name: value for name, value in keywords.items() if name != "class_token"}
        | {
            "global_pool": "avg" if mean else "token",
            "qkv_bias": True,
            "init_values": 1.0 if "blocks.0.gamma_1" in ours else None,
            "use_abs_pos_emb": "pos_embed" in ours,
            "use_rel_pos_bias": f"blocks.0.attn.{_TABLE}" in ours,
            "use_shared_rel_pos_bias": f"rel_pos_bias.{_TABLE}" in ours,
        },
        ours | rest,
        parts=parts,
        pretrained_cfg=facts(config, interpolation="bicubic") | meaning(ours),
        unused=unused,
        assumed=assumed,
    )


def _read_off_tables(ours: State) -> dict[str, Any]:
    """Heads and picture size that a table of distances shows, if the patches make a square."""
    table = next((tensor for name, tensor in ours.items() if name.endswith(_TABLE)), None)
    if table is None:
        return {}
    side = (isqrt(len(table) - 3) + 1) // 2
    return {"num_attention_heads": table.shape[1], "image_size": side * ours["patch_embed.proj.weight"].shape[-1]}


@torch.no_grad()
def resize_table(
    table: Float[Tensor, "distances heads"], own: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "new_distances heads"]:
    """The bias of every distance in another grid, interpolated as Hugging Face does when it runs.

    It takes the table's rows for columns; where the grid is a square, and no larger or smaller, nothing changes.
    """
    (height, width), (new_height, new_width) = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (own, grid))
    if len(table) != height * width + 3:
        raise InputError(
            f"{_TABLE} has {len(table)} distances, and a grid of {own[0]} × {own[1]} has {height * width + 3}"
        )
    if (height, width) == (new_width, new_height) and height == width:
        return table
    of_patches = table[:-3].reshape(1, width, height, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(of_patches, size=(new_height, new_width), mode="bilinear").permute(0, 2, 3, 1)
    return torch.cat([resized.reshape(new_height * new_width, -1), table[-3:]])


def _family(name: str, model_type: str) -> Family:
    marks = ("encoder.layer.0.attention.attention.query.weight", "encoder.layer.0.layernorm_before.weight")
    return Family(f"Hugging Face {name}", (*marks, "embeddings.cls_token"), read_beit, (model_type,))


BEIT = _family("BEiT", "beit")
DATA2VEC_VISION = _family("Data2Vec-vision", "data2vec-vision")
