"""Small timm models of every kind that is ported, all parameters re-randomised: nothing left at 0 or 1, where bugs hide."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import GluMlp, SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from torch import nn

from vitlens.model.porting.other_readings import ClassAndMeanViT, ClassOfDistilledViT
from vitlens.model.porting.timm_classes import DiffParallelScalingBlock
from vitlens.model.porting.timm_classes import TimmAttention as Attention
from vitlens.parity.reduced import build_reduced, randomise, reduced_images

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


class GatedAttention(Attention):
    """timm gates attention through a keyword that its VisionTransformer does not pass on."""

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        return Attention(*args, **keywords, gated=True)


def other_reading(kind: type[nn.Module], **keywords: Any) -> nn.Module:
    """Of a class of our own, which timm cannot make by a name."""
    return randomise(kind(**{**SMALL, **keywords}))


def layered_classifier(**keywords: Any) -> nn.Module:
    module = build(**keywords)
    module.head = nn.Sequential(
        nn.LayerNorm(32), nn.Linear(32, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, N_CLASSES)
    )
    return randomise(module)


def attention_pool_alone(**keywords: Any) -> nn.Module:
    """An attention pool that ends with its output map, without bias, and whose query is learned as it is."""
    module = build(global_pool="map", class_token=False, **keywords)
    module.attn_pool.mlp, module.attn_pool.q, module.attn_pool.proj.bias = None, nn.Identity(), None
    return module.eval()


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

# What is read or wired otherwise: the equations of a plain block do not hold there, everything else does.
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "maximum": partial(build, global_pool="max", fc_norm=False),
    "maximum_before_the_norm": partial(build, global_pool="max", fc_norm=True, reg_tokens=2),
    "average_and_maximum": partial(build, global_pool="avgmax", pool_include_prefix=True),
    "attention_pool": partial(build, global_pool="map", class_token=False, reg_tokens=1),
    "attention_pool_of_all_tokens": partial(build, global_pool="map", pool_include_prefix=True, fc_norm=True),
    "attention_pool_alone": attention_pool_alone,
    "class_and_mean": partial(other_reading, ClassAndMeanViT, reg_tokens=2),
    "class_of_distilled": partial(other_reading, ClassOfDistilledViT),
    "layered_classifier": layered_classifier,
    "rms_norm": partial(build, norm_layer="rmsnorm", qk_norm=True),
    "simple_norm": partial(build, norm_layer="simplenorm"),
    "post_norm": partial(build, block_fn=ResPostBlock, init_values=0.1),
    "parallel": partial(build, block_fn=ParallelScalingBlock, init_values=0.1),
    "parallel_fused_out": partial(build, block_fn=partial(ParallelScalingBlock, fuse_out_proj=True), qkv_bias=False),
    "parallel_things": partial(build, block_fn=ParallelThingsBlock, init_values=0.1),
    "differential": partial(build, attn_layer="diff"),
    "differential_parallel": partial(build, block_fn=partial(DiffParallelScalingBlock, dual_lambda=True)),
    "gated": partial(build, mlp_layer=SwiGLU, act_layer="silu", scale_mlp_norm=True),
    "packed_gate": partial(build, mlp_layer=SwiGLUPacked),
    "gate_last": partial(build, mlp_layer=GluMlp, act_layer="sigmoid"),
    "sub_norms": partial(build, scale_attn_norm=True, scale_mlp_norm=True),
    "gated_attention": partial(build, attn_layer=GatedAttention),
    "rotary": partial(build_reduced, "eva02_tiny_patch14_224"),
    "rotary_mixed": partial(build_reduced, "vit_small_patch16_rope_mixed_224"),
    "rotary_dynamic_size": partial(build_reduced, "vit_small_patch16_dinov3", dynamic_img_size=True),
    "grouped_keys": partial(build_reduced, "vit_large_patch16_sapiens2"),
    "relative": partial(build_reduced, "beit_base_patch16_224"),
    "relative_shared": partial(build_reduced, "beit_base_patch16_224", use_shared_rel_pos_bias=True),
    "relative_mlp_shared": partial(build_reduced, "vit_srelpos_small_patch16_224"),
    "any_size": partial(build_reduced, "naflexvit_base_patch16_parfac_gap"),
}


def pictures(cfg: Any, n: int, seed: int = 0) -> torch.Tensor:
    """Seeded float64 noise of the size that a model reads."""
    return reduced_images(cfg, n, seed)
