"""Reads the configuration of a model from its ported parts."""

from typing import Any

from timm.data import resolve_data_config

from vitlens.model.class_space.outputs import check_output, default_output
from vitlens.model.config import HookedViTConfig
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.embedding import Embedding
from vitlens.model.parts.mlp import GatedMLP
from vitlens.model.parts.naflex import NaFlexEmbedding
from vitlens.model.parts.pooling import Pool
from vitlens.model.porting.agreement import count_channels, read_geometry, stream_width

#: Parts of the names of timm's towers of CLIP kind, whose classifier is the projection into the space of texts and images.
TOWERS = ("_clip_", "_mci_", "_pe_core_")
#: The numbers of classes of ImageNet's lists: a tower that was tuned for one of these is a classifier again.
IMAGENET = (1000, 11821, 21841, 21843)


def read_config(
    module: Any,
    embedding: Embedding,
    blocks: list[AnyBlock],
    prefix_tokens: tuple[str, ...],
    pool: Pool,
    n_classes: int,
) -> HookedViTConfig:
    n_channels = count_channels(embedding.patch_embed)
    pretrained_cfg = getattr(module, "pretrained_cfg", {}) or {}
    patch_size = tuple(embedding.patch_embed.feat_ratio(as_scalar=False))
    if isinstance(embedding, NaFlexEmbedding):
        image_size = tuple((pretrained_cfg.get("input_size") or (3, 224, 224))[1:])
        grid = embedding.grid(*image_size)
    else:
        image_size, grid = read_geometry(embedding)
    first = blocks[0]
    attn = first.attn
    final_norm = module.norm if type(module.norm).__name__ != "Identity" else module.fc_norm
    return HookedViTConfig(
        d_model=stream_width(embedding, n_channels),
        d_head=attn.W_O.shape[1],
        n_heads=attn.n_heads,
        n_layers=len(blocks),
        n_ctx=len(prefix_tokens) + grid[0] * grid[1],
        d_mlp=first.mlp.fc1.weight.shape[0],
        d_vocab=n_classes,
        eps=first.ln1.eps,
        act_fn=type(first.mlp.act).__name__,
        gated_mlp=isinstance(first.mlp, GatedMLP),
        normalization_type=first.ln1.kind,
        uses_rms_norm=first.ln1.kind == "RMS",
        final_rms="RMS" in type(final_norm).__name__.upper(),
        positional_embedding_type=_positions(embedding, attn),
        device=str(embedding.patch_embed_weight.device),
        dtype=embedding.patch_embed_weight.dtype,
        model_name=pretrained_cfg.get("architecture") or type(module).__name__,
        model_class=type(module).__name__,
        wiring=first.wiring,
        image_size=image_size,
        patch_size=patch_size,
        grid_size=grid,
        n_channels=n_channels,
        dynamic_img_size=embedding.dynamic_img_size,
        prefix_tokens=prefix_tokens,
        pool=module.global_pool if getattr(module, "attn_pool", None) is None else "map",
        read_tokens=(pool.tokens.start, pool.tokens.stop),
        layer_scale=any(block.attn.gamma is not None for block in blocks),
        qk_norm=attn.q_norm is not None or attn.k_norm is not None,
        output=_output(pretrained_cfg, n_classes),
        data_config=_data_config(module, n_channels, image_size),
    )


def _output(pretrained_cfg: dict[str, Any], n_classes: int) -> str:
    """What the outputs mean: what a port has put under "output" in timm's `pretrained_cfg`, else what their number says."""
    given = pretrained_cfg.get("output")
    if given is not None:
        return check_output(given, n_classes)
    is_tower = any(part in (pretrained_cfg.get("architecture") or "") for part in TOWERS)
    if is_tower and n_classes == pretrained_cfg.get("num_classes") and n_classes not in IMAGENET:
        return "embedding"
    return default_output(n_classes)


def _positions(embedding: Embedding, attn: Any) -> str:
    """ "learned", "rotary", "relative", several joined by +, or "none"."""
    kinds = {
        "learned": embedding.has_positions,
        "rotary": embedding.rope is not None,
        "relative": hasattr(attn, "hook_rel_pos_bias"),
    }
    return " + ".join(kind for kind, present in kinds.items() if present) or "none"


def _data_config(module: Any, n_channels: int, image_size: tuple[int, int]) -> dict:
    """timm's preprocessing of the model, at the size and with the channels that the module really has."""
    config = resolve_data_config(
        args={"input_size": (n_channels, *image_size)},
        pretrained_cfg=getattr(module, "pretrained_cfg", None) or {},
    )
    for name in ("mean", "std"):
        if len(config[name]) != n_channels:
            # timm's statistics are those of colour pictures; a model of other channels gets their mean.
            config[name] = (sum(config[name]) / len(config[name]),) * n_channels
    return config
