"""DINOv3's own files."""

from functools import partial
from typing import Any

from timm.models.eva import Eva
from torch import nn

from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.vit import IMAGENET_COLOURS
from vitlens.model.families.keys import leave_out
from vitlens.model.families.originals.original_dinov2 import unchunked
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_sizes

DINOV3_RENAMED = {
    "storage_tokens": "reg_token",
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.w3.": "mlp.fc2.",
}
#: Read by training alone, or made again from the settings.
DINOV3_UNUSED = ("mask_token", "local_cls_norm.", "rope_embed.")


def read_original_dinov3(state: State, config: Config) -> Recipe:
    """The output is the class token. Keys have no bias, whatever the file holds for them: a mask of zeros is on it."""
    periods = state["rope_embed.periods"]
    ours, left = leave_out(unchunked(state), DINOV3_UNUSED)
    for theirs, name in DINOV3_RENAMED.items():
        ours = {key.replace(theirs, name): tensor for key, tensor in ours.items()}
    for block in range(count_blocks(ours)):
        ours.pop(f"blocks.{block}.attn.qkv.bias_mask", None)
        if f"blocks.{block}.attn.qkv.bias" in ours:
            q, _, v = ours.pop(f"blocks.{block}.attn.qkv.bias").chunk(3)
            ours |= {f"blocks.{block}.attn.q_bias": q, f"blocks.{block}.attn.v_bias": v}
    gated = "blocks.0.mlp.fc1_g.weight" in ours
    stem = ours["patch_embed.proj.weight"]
    size = config.get("img_size", (224 // stem.shape[2] * stem.shape[2],) * 2)
    keywords: dict[str, Any] = read_sizes(ours, size) | {
        # A head has four numbers for each period: sine and cosine, of rows and columns.
        "num_heads": stem.shape[0] // (4 * len(periods)),
        "depth": count_blocks(ours),
        "qkv_bias": "blocks.0.attn.q_bias" in ours,
        "global_pool": "token",
        "num_reg_tokens": ours["reg_token"].shape[1],
        "init_values": 1e-5,
        "dynamic_img_size": True,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "norm_layer": partial(nn.LayerNorm, eps=1e-5),
        "dtype": own_dtype(ours),
    }
    if gated:
        keywords |= {"swiglu_mlp": True, "swiglu_align_to": 1}
    return Recipe(
        Eva,
        keywords,
        ours,
        pretrained_cfg=IMAGENET_COLOURS | {"interpolation": "bicubic"},
        unused=left,
        assumed=() if "img_size" in config else (f"pictures of {size[0]} × {size[1]}",),
    )


ORIGINAL_DINOV3 = Family(
    "DINOv3 (its own files)",
    ("rope_embed.periods", "storage_tokens", "patch_embed.proj.weight"),
    read_original_dinov3,
    # Of the largest model the class token has a norm of its own.
    lacks=("cls_norm.weight",),
)
