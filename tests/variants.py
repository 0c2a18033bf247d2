"""Small timm models of every kind that is ported, all parameters re-randomised: nothing left at 0 or 1, where bugs hide."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from vitlens.parity.reduced import randomise

N_CLASSES = 10
SMALL: dict[str, Any] = {
    "img_size": 48,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 4,
    "num_classes": N_CLASSES,
}


def build(name: str = "vit_tiny_patch16_224", **keywords: Any) -> nn.Module:
    return randomise(timm.create_model(name, pretrained=False, **{**SMALL, **keywords}))


def unfused() -> nn.Module:
    module = build()
    for block in module.blocks:
        block.attn.fused_attn = False
    return module


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "class_token": build,
    "registers": partial(build, reg_tokens=4),
    "distilled": partial(build, "deit_tiny_distilled_patch16_224"),
    "distilled_dynamic_size": partial(build, "deit_tiny_distilled_patch16_224", dynamic_img_size=True),
    "registers_without_class_token": partial(build, class_token=False, reg_tokens=2, global_pool="avg"),
    "average_without_class_token": partial(build, class_token=False, global_pool="avg"),
    "average_with_class_token": partial(build, global_pool="avg"),
    "average_norm_before_pool": partial(build, global_pool="avg", fc_norm=False),
    "average_with_registers": partial(build, global_pool="avg", reg_tokens=2),
    "average_of_all_tokens": partial(build, global_pool="avg", pool_include_prefix=True, reg_tokens=1),
    "norm_after_token_pool": partial(build, fc_norm=True),
    "norm_pre": partial(build, pre_norm=True),
    "layer_scale": partial(build, init_values=1e-5),
    "qk_norm": partial(build, qk_norm=True),
    "no_qkv_bias": partial(build, qkv_bias=False),
    "no_proj_bias": partial(build, proj_bias=False),
    "no_embed_class": partial(build, no_embed_class=True, reg_tokens=3),
    "no_position": partial(build, pos_embed="none"),
    "quick_gelu": partial(build, act_layer="quick_gelu"),
    "relu": partial(build, act_layer="relu"),
    "silu_layer_scale_qk_norm": partial(build, act_layer="silu", init_values=0.1, qk_norm=True),
    "wide_picture": partial(build, img_size=(32, 64)),
    "wide_patches": partial(build, patch_size=(12, 24)),
    "dynamic_size": partial(build, dynamic_img_size=True),
    "dynamic_size_no_embed_class": partial(build, dynamic_img_size=True, no_embed_class=True, reg_tokens=2),
    "grey": partial(build, in_chans=1),
    "no_final_norm": partial(build, final_norm=False),
    "unfused_attention": unfused,
    "no_classifier": partial(build, num_classes=0),
}


def pictures(cfg: Any, n: int, seed: int = 0) -> torch.Tensor:
    """Seeded float64 noise of the size that a model reads."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, cfg.n_channels, *cfg.image_size, generator=generator, dtype=torch.float64)
