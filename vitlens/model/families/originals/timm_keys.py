"""Files with timm's own names that do not say of which model: DINO, MAE, DeiT, and what was trained with timm."""

from math import isqrt
from typing import Any

from timm.layers import SwiGLUPacked
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.checkpoints.fit_to_model import TOLD_BY_PRESENCE
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import activation, layer_norm
from vitlens.model.families.huggingface.vit import IMAGENET_COLOURS
from vitlens.model.families.keys import leave_out
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.families.sizes import read_heads, read_sizes

#: Of the masked training of MAE.
MAE_TRAINING = ("decoder_", "mask_token", "mask_tokens")


def read_timm_keys(state: State, config: Config) -> Recipe:
    """The classifier reads the class token, unless there is none or a norm stands behind the pooling."""
    ours, left = leave_out(state, MAE_TRAINING)
    eps = 1e-5 if "norm_pre.weight" in ours else 1e-6
    said = f"layer norms of eps {eps:g}, GELU, colours normalised as in ImageNet"
    return timm_recipe(ours, config, eps, left, (said,))


def timm_recipe(
    ours: State, config: Config, eps: float, unused: tuple[str, ...] = (), assumed: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of tensors by timm's names.

    Args:
        eps: of the layer norms.
        unused, assumed: as of the recipe.
    """
    n_heads, guessed = read_heads(ours, config)
    n_prefix = sum(ours[name].shape[1] for name in ("cls_token", "dist_token", "reg_token") if name in ours)
    side, without = _grid(ours, n_prefix)
    keywords: dict[str, Any] = read_sizes(ours, tuple(side * one for one in ours["patch_embed.proj.weight"].shape[2:]))
    for name, told in TOLD_BY_PRESENCE.items():
        keywords |= told if name in ours else {}
    if "fc_norm.weight" in ours or "cls_token" not in ours:
        keywords |= {"global_pool": "avg", "fc_norm": "fc_norm.weight" in ours}
    if "attn_pool.latent" in ours:
        keywords |= {"global_pool": "map", "fc_norm": False}
    if "reg_token" in ours:
        keywords["reg_tokens"] = ours["reg_token"].shape[1]
    packed = ours["blocks.0.mlp.fc1.weight"].shape[0] == 2 * ours["blocks.0.mlp.fc2.weight"].shape[1]
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    distilled = "dist_token" in ours
    if distilled:
        del keywords["class_token"]
    else:
        keywords["no_embed_class"] = without
    return Recipe(
        VisionTransformerDistilled if distilled else VisionTransformer,
        keywords
        | {
            "num_heads": n_heads,
            "depth": count_blocks(ours),
            "norm_layer": layer_norm(config, eps),
            "dtype": own_dtype(ours),
        }
        | (gated if packed else {"act_layer": activation(config)}),
        ours,
        pretrained_cfg=IMAGENET_COLOURS | {"interpolation": "bicubic"},
        unused=unused,
        assumed=(*guessed, *assumed),
    )


def _grid(ours: State, n_prefix: int) -> tuple[int, bool]:
    """The side of the square of patches that have a position, and whether the prefix tokens have none."""
    rows = ours["pos_embed"].shape[1]
    # Published models with registers give a position to patches alone.
    for without in (True, False) if "reg_token" in ours else (False, True):
        side = isqrt(max(rows - (0 if without else n_prefix), 0))
        if side and side**2 == rows - (0 if without else n_prefix):
            return side, without
    raise InputError(
        f"{rows} positions are those of no square of patches: open the file with from_timm(name, checkpoint_path=…, "
        "img_size=(height, width))"
    )


TIMM_KEYS = Family(
    "timm, DINO or MAE (their own files)",
    (
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.norm1.weight",
        "patch_embed.proj.weight",
        "pos_embed",
    ),
    read_timm_keys,
    lacks=(
        "blocks.0.attn.q_bias",
        "blocks.0.gamma_1",
        "blocks.0.attn.sub_norm.weight",
        "blocks.0.attn.gate.weight",
        "blocks.0.mlp.norm.weight",
        "patch_embed.backbone.conv1.weight",
        "patch_embed.backbone.stem.conv.weight",
    ),
)
