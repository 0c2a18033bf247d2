"""From a timm module to the parts of a HookedViT: every parameter adopted, every unknown part refused by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import resolve_data_config
from timm.layers import Attention as TimmAttention
from timm.layers import LayerNorm as TimmLayerNorm
from timm.layers import LayerScale
from timm.layers import Mlp as TimmMlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.errors import InputError
from vitlens.model.attention import Attention
from vitlens.model.block import Block
from vitlens.model.config import HookedViTConfig
from vitlens.model.embedding import Embedding
from vitlens.model.hook_points import NO_TOKENS
from vitlens.model.mlp import MLP
from vitlens.model.norm import LayerNorm

# timm's modules carry their configuration as plain attributes that no type checker knows: they are typed Any here.
MODEL_CLASSES = (VisionTransformer, VisionTransformerDistilled)
NORM_CLASSES = (TimmLayerNorm, nn.LayerNorm)
POOLS = ("token", "avg")
# Parts of timm's modules that are the identity at evaluation time.
TRAINING_ONLY = {"drop_path1", "drop_path2", "attn_drop", "proj_drop", "drop1", "drop2"}
MODEL_PARTS = {
    "patch_embed", "pos_drop", "patch_drop", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm",
    "head_drop", "head", "head_dist", "cls_token", "reg_token", "dist_token", "pos_embed",
}  # fmt: skip


@dataclass
class Parts:
    """What HookedViT is assembled from; `None` where the architecture has no such part."""

    cfg: HookedViTConfig
    embedding: Embedding
    ln_pre: LayerNorm | None
    blocks: list[Block]
    ln_final: LayerNorm | None
    fc_norm: LayerNorm | None
    unembed: nn.Linear | None
    unembed_dist: nn.Linear | None


def port(module: Any) -> Parts:
    """Takes a timm VisionTransformer (or its distilled sister) apart, sharing every parameter with it.

    Raises:
        InputError: the class, or a part of it, is one that vitlens does not port exactly; the message names it.
    """
    if type(module) not in MODEL_CLASSES:
        known = " and ".join(model.__name__ for model in MODEL_CLASSES)
        raise InputError(
            f"{type(module).__module__.split('.')[-1]}.{type(module).__name__} is not a model that vitlens ports: "
            f"it takes timm's {known} (see the README's table of what is covered)"
        )
    _refuse_unknown(module, MODEL_PARTS, "the model")
    if module.attn_pool is not None or module.global_pool not in POOLS:
        raise InputError(
            f"global_pool={module.global_pool!r} is not ported, only {' and '.join(POOLS)}: "
            "build the timm model with one of these"
        )
    if len(module.blocks) == 0:
        raise InputError("the model has no transformer blocks (depth=0), so there is nothing to look into")
    distilled = isinstance(module, VisionTransformerDistilled)
    prefix = {
        "class": module.cls_token,
        "distillation": module.dist_token if distilled else None,
        "register": module.reg_token,
    }
    embedding = Embedding(
        module.patch_embed,
        [token for token in prefix.values() if token is not None],
        module.pos_embed,
        module.no_embed_class,
        module.dynamic_img_size,
    )
    blocks = [_port_block(block, f"blocks.{i}") for i, block in enumerate(module.blocks)]
    return Parts(
        cfg=_config(module, embedding, blocks, prefix),
        embedding=embedding,
        ln_pre=_port_norm(module.norm_pre, "norm_pre"),
        blocks=blocks,
        ln_final=_port_norm(module.norm, "norm"),
        # timm's distilled model never reads fc_norm, whatever it holds.
        fc_norm=None if distilled else _port_norm(module.fc_norm, "fc_norm", NO_TOKENS),
        unembed=_port_classifier(module.head),
        unembed_dist=_port_classifier(module.head_dist) if distilled else None,
    )


def _port_block(block: Any, where: str) -> Block:
    if type(block) not in PORTS:
        known = ", ".join(kind.__name__ for kind in PORTS)
        raise InputError(f"{where} is a {type(block).__name__}, a block that vitlens does not port (it ports {known})")
    return PORTS[type(block)](block, where)


def _port_pre_norm_block(block: TimmBlock, where: str) -> Block:
    _refuse_unknown(block, {"norm1", "attn", "ls1", "norm2", "mlp", "ls2"}, where)
    ln1, ln2 = _port_norm(block.norm1, f"{where}.norm1"), _port_norm(block.norm2, f"{where}.norm2")
    if ln1 is None or ln2 is None:
        raise InputError(f"{where} has no norm before its attention or its MLP, which vitlens does not port")
    return Block(
        ln1,
        _port_attention(block.attn, _port_layer_scale(block.ls1, f"{where}.ls1"), f"{where}.attn"),
        ln2,
        _port_mlp(block.mlp, _port_layer_scale(block.ls2, f"{where}.ls2"), f"{where}.mlp"),
    )


PORTS: dict[type, Callable[[Any, str], Block]] = {TimmBlock: _port_pre_norm_block}


def _port_attention(attention: Any, gamma: nn.Parameter | None, where: str) -> Attention:
    _refuse_other_class(attention, (TimmAttention,), where)
    _refuse_unknown(attention, {"qkv", "q_norm", "k_norm", "norm", "proj"}, where)
    for name in ("qkv", "proj"):
        _refuse_other_class(getattr(attention, name), (nn.Linear,), f"{where}.{name}")
    if not isinstance(attention.norm, nn.Identity):
        raise InputError(f"{where}.norm (scale_attn_norm) is a part that vitlens does not port yet")
    if attention.gate is not None:
        raise InputError(f"{where}.gate (gated attention) is a part that vitlens does not port yet")
    return Attention(
        attention,
        _port_norm(attention.q_norm, f"{where}.q_norm", token_axis=-3),
        _port_norm(attention.k_norm, f"{where}.k_norm", token_axis=-3),
        gamma,
    )


def _port_mlp(mlp: Any, gamma: nn.Parameter | None, where: str) -> MLP:
    _refuse_other_class(mlp, (TimmMlp,), where)
    _refuse_unknown(mlp, {"fc1", "act", "norm", "fc2"}, where)
    for name in ("fc1", "fc2"):
        _refuse_other_class(getattr(mlp, name), (nn.Linear,), f"{where}.{name}")
    if not isinstance(mlp.norm, nn.Identity):
        raise InputError(f"{where}.norm (scale_mlp_norm) is a part that vitlens does not port yet")
    return MLP(mlp, gamma)


def _port_norm(norm: Any, where: str, token_axis: int = -2) -> LayerNorm | None:
    if isinstance(norm, nn.Identity):
        return None
    _refuse_other_class(norm, NORM_CLASSES, where)
    return LayerNorm(norm, token_axis)


def _port_layer_scale(scale: Any, where: str) -> nn.Parameter | None:
    if isinstance(scale, nn.Identity):
        return None
    _refuse_other_class(scale, (LayerScale,), where)
    return scale.gamma


def _port_classifier(head: Any) -> nn.Linear | None:
    if isinstance(head, nn.Identity):
        return None
    _refuse_other_class(head, (nn.Linear,), "head")
    return head


def _refuse_other_class(module: nn.Module, known: tuple[type, ...], where: str) -> None:
    if type(module) not in known:
        names = ", ".join(dict.fromkeys(kind.__name__ for kind in known))
        raise InputError(f"{where} is a {type(module).__name__}, which vitlens does not port (it ports {names})")


def _refuse_unknown(module: nn.Module, known: set[str], where: str) -> None:
    """Nothing that holds weights or computes may be left out without a word."""
    parts = {name for name, _ in module.named_children()}
    parts |= {name for name, _ in module.named_parameters(recurse=False)}
    parts |= {name for name, _ in module.named_buffers(recurse=False)}
    unknown = sorted(parts - known - TRAINING_ONLY)
    if unknown:
        raise InputError(
            f"{where} ({type(module).__name__}) has {', '.join(unknown)}, which vitlens does not know, "
            "so its port would not be exact"
        )


def _config(
    module: Any,
    embedding: Embedding,
    blocks: list[Block],
    prefix: dict[str, torch.Tensor | None],
) -> HookedViTConfig:
    first = blocks[0]
    grid = tuple(module.patch_embed.grid_size)
    image_size = tuple(module.patch_embed.img_size)
    if 0 in grid:
        raise InputError(
            f"pictures of {image_size[0]} × {image_size[1]} hold no patch: load the model with a larger img_size="
        )
    pretrained_cfg = getattr(module, "pretrained_cfg", {}) or {}
    prefix_tokens = [
        name if token.shape[1] == 1 and name != "register" else f"{name} {i + 1}"
        for name, token in prefix.items()
        if token is not None
        for i in range(token.shape[1])
    ]
    pool_start = 0 if module.pool_include_prefix else len(prefix_tokens)
    return HookedViTConfig(
        d_model=module.embed_dim,
        d_head=first.attn.qkv.out_features // (3 * first.attn.n_heads),
        n_heads=first.attn.n_heads,
        n_layers=len(blocks),
        n_ctx=len(prefix_tokens) + grid[0] * grid[1],
        d_mlp=first.mlp.fc1.out_features,
        d_vocab=module.num_classes,
        eps=first.ln1.eps,
        act_fn=type(first.mlp.act).__name__,
        normalization_type="LN",
        device=str(embedding.patch_embed_weight.device),
        dtype=embedding.patch_embed_weight.dtype,
        model_name=pretrained_cfg.get("architecture") or type(module).__name__,
        image_size=image_size,
        patch_size=tuple(module.patch_embed.feat_ratio(as_scalar=False)),
        grid_size=grid,
        n_channels=module.in_chans,
        dynamic_img_size=module.dynamic_img_size,
        prefix_tokens=tuple(prefix_tokens),
        pool=module.global_pool,
        read_tokens=(0, 1) if module.global_pool == "token" else (pool_start, None),
        layer_scale=first.attn.gamma is not None,
        qk_norm=first.attn.q_norm is not None,
        data_config=_data_config(module, image_size),
    )


def _data_config(module: Any, image_size: tuple[int, int]) -> dict:
    """timm's preprocessing of the model, at the size and with the channels that the module really has."""
    config = resolve_data_config(
        args={"input_size": (module.in_chans, *image_size)},
        pretrained_cfg=getattr(module, "pretrained_cfg", None) or {},
    )
    for name in ("mean", "std"):
        if len(config[name]) != module.in_chans:
            # timm's statistics are those of colour pictures; a model of other channels gets their mean.
            config[name] = (sum(config[name]) / len(config[name]),) * module.in_chans
    return config
