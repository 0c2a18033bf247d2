"""Builds a small model of every timm name with random parameters, none of them 0 or 1, where bugs would hide."""

from typing import Any

import timm
import torch
from timm.layers import HybridEmbed
from torch import Tensor, nn

from vitlens.model.checkpoints.timm_models import build_without_values
from vitlens.model.config import HookedViTConfig

# timm's files of plain vision transformers, and what each adds to the first.
FILES = {
    "vision_transformer": "ViT, CLIP, DINOv2, SigLIP, AIMv2, …",
    "deit": "DeiT, with and without distillation",
    "vision_transformer_hybrid": "convolutional stems",
    "vitamin": "ViTamin: convolutional stems, GeGLU",
    "eva": "EVA, EVA-02, DINOv3, Perception Encoder, …: rotary positions, SwiGLU",
    "beit": "BEiT: relative positions",
    "vision_transformer_relpos": "relative positions, MLPs of distance",
    "naflexvit": "NaFlexViT: any size and aspect ratio",
}


def family_names() -> dict[str, str]:
    """Every name of timm's registry in those files, with its file."""
    return {name: file for file in FILES for name in timm.list_models(module=file)}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Re-initialises every parameter, norms and LayerScale around 1, all others around 0; float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_scale = any(kind in name for kind in ("gamma", "lambda_1", "lambda_2", "lambda1")) or (
                parameter.ndim == 1 and name.endswith("weight")
            )
            # Weights shrink with their fan-in, so that activations neither vanish nor explode at any width.
            fan_in = parameter.shape[1:].numel() if parameter.ndim > 1 else 1
            spread = 0.3 if is_scale or parameter.ndim == 1 or fan_in < 16 else 1.4 * fan_in**-0.5
            draw = spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(1 + draw if is_scale else draw)
    return module


def build_reduced(name: str, depth: int = 2, **keywords: Any) -> nn.Module:
    """timm's model of that name with few blocks, few heads and 2 × 3 patches, randomised.

    Heads keep their width. A convolutional stem keeps its own width and size, since its features are the tokens.
    """
    return randomise(timm.create_model(name, pretrained=False, **{**reduction(name, depth), **keywords}))


def reduction(name: str, depth: int = 2) -> dict[str, Any]:
    """timm's keywords for a small model of that name."""
    original = build_without_values(name, {})
    stem = getattr(original, "patch_embed", None)
    if isinstance(stem, HybridEmbed):
        patch: Any = stem.feat_ratio(as_scalar=False)
        return {"depth": depth, "img_size": (2 * patch[0], 2 * patch[1])}
    holder = _attention_holder(original.blocks[0])
    n_heads, grouped = 2, _groups(original)
    keywords: dict[str, Any] = {"depth": depth, "num_classes": min(original.num_classes, 10)}
    if hasattr(holder, "num_kv_heads"):
        # Some of these name the keys' heads block by block, which would no longer fit.
        keywords["num_kv_heads"] = n_heads
    if grouped:
        n_heads = 2 * max(grouped)
        chosen = [n_heads // groups for groups in (grouped[0], grouped[len(grouped) // 2])]
        keywords["num_kv_heads"] = tuple((chosen * depth)[:depth])
    # Differential attention halves the width of a head.
    width = original.embed_dim // holder.num_heads
    keywords |= {"num_heads": n_heads, "embed_dim": n_heads * width}
    if stem is not None:
        keywords["img_size"] = (2 * stem.patch_size[0], 3 * stem.patch_size[1])
    pool = getattr(original, "attn_pool", None)
    if pool is not None and pool.num_heads != holder.num_heads:
        keywords["attn_pool_num_heads"] = n_heads
    return keywords


def reduced_images(cfg: HookedViTConfig, n: int = 2, seed: int = 0) -> Tensor:
    """Seeded float64 noise that the reduced model reads; of a model of any size, 2 × 3 patches."""
    size = cfg.image_size
    if cfg.model_class == "NaFlexVit":
        size = (2 * cfg.patch_size[0], 3 * cfg.patch_size[1])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, cfg.n_channels, *size, generator=generator, dtype=torch.float64)


def _attention_holder(block: Any) -> Any:
    """The module of a timm block that knows the number of heads."""
    if hasattr(block, "attns"):
        return block.attns[0].attn
    return getattr(block, "attn", block)


def _groups(original: Any) -> list[int]:
    """How many heads share a key in each block; empty where no block shares any."""
    groups = [getattr(_attention_holder(block), "num_kv_groups", 1) for block in original.blocks]
    return groups if max(groups) > 1 else []
