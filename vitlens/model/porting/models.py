"""Ports whole models: one function for each of timm's classes, and `port`, which chooses among them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
from timm.layers import HybridEmbed, PatchEmbed
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from vitlens.errors import InputError
from vitlens.model.class_space.classifier import OwnClassifier, n_outputs
from vitlens.model.config import HookedViTConfig
from vitlens.model.hooks.hook_points import NO_TOKENS
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.embedding import Embedding
from vitlens.model.parts.naflex import NaFlexEmbedding
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pixel_stem import PixelStem
from vitlens.model.parts.pooling import MeanPool, Pool
from vitlens.model.parts.positions import RelPosTable
from vitlens.model.porting.agreement import check_blocks_alike, check_prefix
from vitlens.model.porting.attention import port_rel_pos
from vitlens.model.porting.blocks import port_block
from vitlens.model.porting.classifier import port_classifier
from vitlens.model.porting.config import read_config
from vitlens.model.porting.other_readings import ClassAndMeanViT, ClassOfDistilledViT
from vitlens.model.porting.parts import (
    Given,
    is_adapted,
    port_norm,
    refuse_other_class,
    refuse_unknown,
)
from vitlens.model.porting.pooling import port_pool
from vitlens.model.porting.state import check_one_dtype, check_state
from vitlens.model.porting.timm_classes import NaFlexEmbeds, NaFlexVit
from vitlens.model.porting.timm_versions import VERIFIED

OTHERS = "models of other libraries are opened with HookedViT.from_pretrained; "
# Parts that all of these models may have.
COMMON = {"patch_embed", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm", "head", "cls_token", "pos_embed"}


@dataclass
class Parts:
    """The parts of a HookedViT; `None` if the architecture has no such part."""

    cfg: HookedViTConfig
    embedding: Embedding
    ln_pre: Norm | None
    blocks: list[AnyBlock]
    ln_final: Norm | None
    pool: Pool
    fc_norm: Norm | None
    unembed: OwnClassifier | None
    pool_dist: Pool | None = None
    unembed_dist: OwnClassifier | None = None


def port(module: Any) -> Parts:
    """Converts a timm model of the plain vision-transformer family into parts that share its parameters.

    Raises:
        InputError: the class, or a part of it, is one that vitlens does not port exactly; the message names it.
    """
    if hasattr(module, "_orig_mod"):
        raise InputError(
            "the timm module is compiled: port the module that was given to torch.compile (compiled._orig_mod), "
            "and compile the HookedViT instead"
        )
    if type(module) not in MODELS:
        known = ", ".join(model.__name__ for model in MODELS)
        raise InputError(
            f"{type(module).__module__.split('.')[-1]}.{type(module).__name__} is not a model that vitlens ports: "
            f"{_what_is_inside(module)}it takes timm's {known} (vitlens.supported_models() lists their names)"
        )
    check_state(module)
    if len(module.blocks) == 0:
        raise InputError("the model has no transformer blocks (depth=0), so there is nothing to look into")
    parts = MODELS[type(module)](module)
    check_one_dtype(module)
    return parts


def _what_is_inside(module: nn.Module) -> str:
    """Where a wrapper holds a model that could be ported."""
    adapted = "adapters are merged first (model.merge_and_unload() of peft); " if is_adapted(module) else ""
    where = next((name for name, part in module.named_modules() if type(part) in MODELS), None)
    of_others = "" if type(module).__module__.startswith("timm.") else OTHERS
    return adapted or (of_others if where is None else f"port the model inside, module.{where}; ")


def _assemble(module: Any, embedding: Embedding, prefix: dict[str, Any], **distilled: Any) -> Parts:
    """The parts that every model has; `prefix` names the tokens before the patches."""
    prefix_tokens = tuple(
        name if token.shape[1] == 1 and name != "register" else f"{name} {i + 1}"
        for name, token in prefix.items()
        if token is not None
        for i in range(token.shape[1])
    )
    given = Given(rotary=embedding.rope is not None, rel_pos=embedding.rel_pos is not None)
    blocks = [port_block(block, f"blocks.{i}", given) for i, block in enumerate(module.blocks)]
    check_blocks_alike(blocks)
    check_prefix(module, prefix_tokens)
    pool = port_pool(module, len(prefix_tokens), _pools_prefix(module))
    unembed = port_classifier(module.head, pool.width(len(blocks[0].mlp.b_out)))
    n_classes = 0 if unembed is None else n_outputs(unembed)
    cfg = read_config(module, embedding, blocks, prefix_tokens, pool, n_classes)
    return Parts(
        cfg=cfg,
        embedding=embedding,
        ln_pre=port_norm(getattr(module, "norm_pre", nn.Identity()), "norm_pre"),
        blocks=blocks,
        ln_final=port_norm(module.norm, "norm"),
        pool=pool,
        # timm's distilled model never reads fc_norm, whatever it holds.
        fc_norm=None if distilled else port_norm(module.fc_norm, "fc_norm", NO_TOKENS),
        unembed=unembed,
        **distilled,
    )


def _pools_prefix(module: Any) -> bool:
    # Where timm has no option for it (Eva, and older versions), an attention pool reads all tokens, other pools the patches.
    return getattr(module, "pool_include_prefix", getattr(module, "attn_pool", None) is not None)


def _embedding(module: Any, prefix: dict[str, Any], *rotary: Any) -> Embedding:
    """Of the classes that share VisionTransformer's options."""
    tokens = [token for token in prefix.values() if token is not None]
    return Embedding(
        module.patch_embed,
        tokens,
        module.pos_embed,
        getattr(module, "no_embed_class", False),
        module.dynamic_img_size,
        *rotary,
    )


def _vision_transformer(module: Any) -> Parts:
    refuse_unknown(module, COMMON | {"reg_token"}, "the model")
    refuse_other_class(module.patch_embed, (PatchEmbed, HybridEmbed, PixelStem), "patch_embed")
    prefix = {"class": module.cls_token, "register": module.reg_token}
    return _assemble(module, _embedding(module, prefix), prefix)


def _distilled(module: Any) -> Parts:
    refuse_unknown(module, COMMON | {"reg_token", "dist_token", "head_dist"}, "the model")
    refuse_other_class(module.patch_embed, (PatchEmbed, HybridEmbed), "patch_embed")
    if module.global_pool != "token":
        raise InputError(f"a distilled model reads its two tokens, global_pool={module.global_pool!r} is not ported")
    prefix = {"class": module.cls_token, "distillation": module.dist_token, "register": module.reg_token}
    if isinstance(module, ClassOfDistilledViT):
        return _assemble(module, _embedding(module, prefix), prefix)
    parts = _assemble(module, _embedding(module, prefix), prefix, pool_dist=MeanPool(slice(1, 2)))
    parts.unembed_dist = port_classifier(module.head_dist, parts.cfg.d_model, "head_dist")
    n_second = 0 if parts.unembed_dist is None else n_outputs(parts.unembed_dist)
    if n_second != parts.cfg.n_classes:
        raise InputError(
            f"head has {parts.cfg.n_classes} classes and head_dist {n_second}: a distilled model takes the mean of both, so "
            "replace both"
        )
    return parts


def _eva(module: Any) -> Parts:
    refuse_unknown(module, COMMON | {"reg_token", "rope"}, "the model")
    refuse_other_class(module.patch_embed, (PatchEmbed,), "patch_embed")
    prefix = {"class": module.cls_token, "register": module.reg_token}
    return _assemble(module, _embedding(module, prefix, module.rope, getattr(module, "rope_mixed", False)), prefix)


def _beit(module: Any) -> Parts:
    refuse_unknown(module, COMMON | {"rel_pos_bias"}, "the model")
    refuse_other_class(module.patch_embed, (PatchEmbed,), "patch_embed")
    shared = None if module.rel_pos_bias is None else RelPosTable(module.rel_pos_bias)
    embedding = Embedding(module.patch_embed, [module.cls_token], module.pos_embed, rel_pos=shared)
    return _assemble(module, embedding, {"class": module.cls_token})


def _rel_pos(module: Any) -> Parts:
    refuse_unknown(module, COMMON | {"shared_rel_pos"}, "the model")
    refuse_other_class(module.patch_embed, (PatchEmbed,), "patch_embed")
    shared = None if module.shared_rel_pos is None else port_rel_pos(module.shared_rel_pos, "shared_rel_pos")
    tokens = [] if module.cls_token is None else [module.cls_token]
    embedding = Embedding(module.patch_embed, tokens, rel_pos=shared)
    return _assemble(module, embedding, {"class": module.cls_token})


def _naflex(module: Any) -> Parts:
    refuse_unknown(module, (COMMON - {"patch_embed"}) | {"embeds", "rope"}, "the model")
    refuse_other_class(module.embeds, (NaFlexEmbeds,), "embeds")
    if not hasattr(module.embeds, "channels_last"):
        raise InputError(f"the NaFlexVit of timm {timm.__version__} is not ported: install timm {VERIFIED}")
    known = {"cls_token", "reg_token", "norm_input", "proj", "norm", "pos_embed", "pos_embed_y", "pos_embed_x"}
    refuse_unknown(module.embeds, known | {"patch_interpolator"}, "embeds")
    prefix = {"class": module.embeds.cls_token, "register": module.embeds.reg_token}
    return _assemble(module, NaFlexEmbedding(module), prefix)


MODELS: dict[type, Callable[[Any], Parts]] = {
    VisionTransformer: _vision_transformer,
    ClassAndMeanViT: _vision_transformer,
    VisionTransformerDistilled: _distilled,
    ClassOfDistilledViT: _distilled,
    Eva: _eva,
    Beit: _beit,
    VisionTransformerRelPos: _rel_pos,
    NaFlexVit: _naflex,
}
