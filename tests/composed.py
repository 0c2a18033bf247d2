"""Small models that combine what the variants change one at a time: together they hold every pair that timm can build.

A variant of variants.py differs from a plain model in one property. Each of these differs in many, so that a fault of two
properties together is seen too, and far fewer models are needed. test_composed.py proves that no pair is missing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from timm.layers import GluMlp, LayerNorm, RmsNorm, SimpleNorm, SwiGLU, SwiGLUPacked
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock
from torch import nn
from variants import GatedAttention, build

from vitlens.model.porting.timm_classes import DiffParallelScalingBlock


class Properties(NamedTuple):
    """What a model is, axis by axis."""

    wiring: str
    attention: str
    norm: str
    positions: str
    pooling: str
    prefix: str
    mlp: str
    size: str


BLOCKS = {"post-norm": ResPostBlock, "parallel": ParallelScalingBlock, "branches": ParallelThingsBlock}
ATTENTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk-norm": {"qk_norm": True},
    "differential": {"attn_layer": "diff"},
    "gated": {"attn_layer": GatedAttention},
}
NORMS = {"layer-norm": LayerNorm, "rms-norm": RmsNorm, "simple-norm": SimpleNorm}
POOLINGS = {"token": "token", "average": "avg", "maximum": "max", "attention-pool": "map"}
#: Whether there is a class token, and how many registers.
PREFIXES = {"class": (True, 0), "class+registers": (True, 2), "registers": (False, 2), "no-prefix": (False, 0)}
MLPS: dict[str, dict[str, Any]] = {"mlp": {}, "gated-mlp": {"mlp_layer": SwiGLU, "act_layer": "silu"}}
SIZES: dict[str, dict[str, Any]] = {
    "square": {}, "wide-picture": {"img_size": (32, 64)}, "wide-patches": {"patch_size": (12, 24)},
}  # fmt: skip


def compose(name: str, **also: Any) -> nn.Module:
    """A timm model with the properties that its name lists, and what other keywords of timm ask for."""
    wanted = Properties(*name.split())
    keywords = {"norm_layer": NORMS[wanted.norm], **SIZES[wanted.size]}
    if wanted.prefix != "class+distillation":
        keywords["global_pool"] = POOLINGS[wanted.pooling]
    make = {"rotary": _rotary, "relative": _relative}.get(wanted.positions, _learned)
    return make(wanted, **keywords, **also)


def _learned(wanted: Properties, **keywords: Any) -> nn.Module:
    """timm's VisionTransformer: positions that are learned, or none."""
    chosen = {**ATTENTIONS[wanted.attention], **MLPS[wanted.mlp]}
    if wanted.wiring in BLOCKS:
        chosen["block_fn"] = BLOCKS[wanted.wiring]
    if (wanted.wiring, wanted.attention) == ("parallel", "differential"):
        chosen["block_fn"] = DiffParallelScalingBlock
    if wanted.prefix == "class+distillation":
        return build("deit_tiny_distilled_patch16_224", **{**chosen, **keywords})
    class_token, reg_tokens = PREFIXES[wanted.prefix]
    chosen |= {"class_token": class_token, "reg_tokens": reg_tokens}
    chosen["pos_embed"] = {"learned": "learn", "no-positions": "none"}[wanted.positions]
    return build(**{**chosen, **keywords})


def _rotary(wanted: Properties, **keywords: Any) -> nn.Module:
    """timm's Eva, which has learned positions too."""
    class_token, num_reg_tokens = PREFIXES[wanted.prefix]
    chosen = {"class_token": class_token, "num_reg_tokens": num_reg_tokens, "swiglu_mlp": wanted.mlp == "gated-mlp"}
    chosen |= {"qk_norm": wanted.attention == "qk-norm", "use_post_norm": wanted.wiring == "post-norm"}
    return build("eva02_tiny_patch14_224", **{**chosen, **keywords})


def _relative(wanted: Properties, **keywords: Any) -> nn.Module:
    """timm's Beit where MLPs are gated, which its VisionTransformerRelPos has not."""
    if wanted.mlp == "gated-mlp":
        return build("beit_base_patch16_224", swiglu_mlp=True, **keywords)
    chosen = {"class_token": wanted.prefix == "class", "qk_norm": wanted.attention == "qk-norm"}
    chosen["block_fn"] = {"pre-norm": RelPosBlock, "post-norm": ResPostRelPosBlock}[wanted.wiring]
    chosen["fc_norm"] = wanted.pooling == "average"
    return build("vit_relpos_small_patch16_224", **{**chosen, **keywords})


# ruff: noqa: E501
#: The properties in their order; then what else timm is told.
ROWS: dict[str, dict[str, Any]] = {
    "pre-norm plain simple-norm relative average no-prefix mlp wide-picture": {"shared_rel_pos": True},
    "pre-norm plain layer-norm relative token class gated-mlp square": {"init_values": 0.1},
    "pre-norm qk-norm rms-norm rotary token class+registers gated-mlp square": {"scale_mlp": True},
    "pre-norm qk-norm simple-norm rotary average no-prefix mlp wide-picture": {"rope_type": "mixed"},
    "pre-norm qk-norm layer-norm rotary attention-pool registers mlp wide-patches": {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": (2, 4, 1)},
    "pre-norm gated layer-norm no-positions maximum class+registers gated-mlp wide-picture": {"qkv_bias": False, "mlp_layer": SwiGLUPacked, "fc_norm": False},
    "pre-norm gated layer-norm learned token class+distillation mlp wide-picture": {"pre_norm": True},
    "pre-norm differential simple-norm learned maximum no-prefix gated-mlp wide-patches": {"mlp_layer": GluMlp, "act_layer": "sigmoid", "proj_bias": False},
    "post-norm plain layer-norm rotary maximum class gated-mlp wide-picture": {},
    "post-norm qk-norm rms-norm relative average class mlp wide-patches": {},
    "post-norm qk-norm simple-norm no-positions maximum class+registers gated-mlp square": {"fc_norm": True},
    "post-norm gated layer-norm learned average registers gated-mlp square": {"dynamic_img_size": True, "no_embed_class": True},
    "post-norm gated rms-norm no-positions attention-pool no-prefix gated-mlp square": {"scale_mlp_norm": True},
    "post-norm gated simple-norm no-positions token class gated-mlp wide-patches": {"init_values": 0.1},
    "post-norm differential layer-norm learned token class+distillation gated-mlp wide-picture": {"dynamic_img_size": True},
    "parallel plain simple-norm no-positions maximum no-prefix mlp wide-patches": {"qkv_bias": False},
    "parallel qk-norm simple-norm learned token class+distillation mlp wide-patches": {},
    "parallel differential rms-norm no-positions maximum registers mlp wide-picture": {"block_fn": partial(DiffParallelScalingBlock, dual_lambda=True)},
    "parallel differential layer-norm learned average class+registers mlp wide-patches": {"pool_include_prefix": True, "init_values": 0.1},
    "parallel differential simple-norm learned attention-pool class mlp square": {"final_norm": False},
    "branches plain layer-norm learned maximum no-prefix mlp wide-patches": {"in_chans": 1},
    "branches plain simple-norm learned token class mlp wide-picture": {"init_values": 0.1},
    "branches plain rms-norm learned token class+distillation mlp square": {},
    "branches plain simple-norm learned attention-pool class+registers mlp wide-picture": {"act_layer": "quick_gelu"},
    "branches plain simple-norm no-positions average registers mlp wide-patches": {},
}  # fmt: skip
COMPOSED: dict[str, Callable[[], nn.Module]] = {name: partial(compose, name, **also) for name, also in ROWS.items()}


def _few() -> list[str]:
    """Rows that together have every value of every axis once, each time the one that adds most."""
    missing = {value for name in ROWS for value in enumerate(name.split())}
    chosen = []
    while missing:
        chosen.append(max(ROWS, key=lambda name: len(missing & set(enumerate(name.split())))))
        missing -= set(enumerate(chosen[-1].split()))
    return chosen


#: Every property once, not every pair: for what is dear and depends on one property at a time.
SINGLES = _few()
