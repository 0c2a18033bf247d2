"""The vit-pytorch library's ViT and SimpleViT."""

from functools import partial
from math import isqrt
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.config import layer_norm
from vitlens.model.families.huggingface.positions import patches_of_size
from vitlens.model.families.huggingface.vit import IMAGENET_COLOURS
from vitlens.model.families.keys import of_any_block, translate
from vitlens.model.families.recipe import Recipe, count_blocks, own_dtype
from vitlens.model.parts.pixel_stem import PixelStem
from vitlens.model.porting.timm_classes import TimmAttention

TRANSFORMER_LAYER = "transformer.layers.{i}."
SHARED_NAMES = {
    "to_patch_embedding.1": "patch_embed.norm_in",
    "to_patch_embedding.2": "patch_embed.proj",
    "to_patch_embedding.3": "patch_embed.norm",
    "cls_token": "cls_token",
    "pos_embedding": "pos_embed",
    f"{TRANSFORMER_LAYER}0.norm": "blocks.{i}.norm1",
    f"{TRANSFORMER_LAYER}0.to_qkv": "blocks.{i}.attn.qkv",
    f"{TRANSFORMER_LAYER}0.to_out.0": "blocks.{i}.attn.proj",
    f"{TRANSFORMER_LAYER}0.to_out": "blocks.{i}.attn.proj",
    f"{TRANSFORMER_LAYER}1.net.0": "blocks.{i}.norm2",
    f"{TRANSFORMER_LAYER}1.net.1": "blocks.{i}.mlp.fc1",
    "transformer.norm": "norm",
}
VIT_PYTORCH_NAMES = SHARED_NAMES | {f"{TRANSFORMER_LAYER}1.net.4": "blocks.{i}.mlp.fc2", "mlp_head": "head"}
SIMPLE_VIT_NAMES = SHARED_NAMES | {f"{TRANSFORMER_LAYER}1.net.3": "blocks.{i}.mlp.fc2", "linear_head": "head"}


def read_vit_pytorch(state: State, config: Config) -> Recipe:
    """ViT: its classifier reads the class token, or the mean of all tokens."""
    ours, rest = translate(state, VIT_PYTORCH_NAMES)
    module = config.get("module")
    width = ours["norm.weight"].shape[0]
    ours["cls_token"] = ours["cls_token"].reshape(1, -1, width)
    ours["pos_embed"] = ours["pos_embed"].reshape(1, -1, width)
    n_class_tokens = ours["cls_token"].shape[1]
    if not n_class_tokens:
        del ours["cls_token"]
    means = not n_class_tokens or getattr(module, "pool", "cls") == "mean"
    assumed = () if module is not None or means else ("the classifier reads the class token",)
    return _recipe(ours, rest, config, n_class_tokens, means, assumed)


def read_simple_vit(state: State, config: Config) -> Recipe:
    """SimpleViT: its positions are fixed waves, its classifier reads the mean of the patches."""
    ours, rest = translate(state, SIMPLE_VIT_NAMES)
    positions = getattr(config.get("module"), "pos_embedding", None)
    if positions is None:
        raise InputError(
            "a file of SimpleViT does not tell the size of its pictures: pass the module, with its weights"
        )
    ours["pos_embed"] = positions.to(own_dtype(ours)).unsqueeze(0)
    return _recipe(ours, rest, config, 0, True, ())


def _recipe(
    ours: State, rest: State, config: Config, n_class_tokens: int, means: bool, assumed: tuple[str, ...]
) -> Recipe:
    depth, dtype, width = count_blocks(ours), own_dtype(ours), ours["norm.weight"].shape[0]
    inner = ours["blocks.0.attn.qkv.weight"].shape[0] // 3
    n_heads = config.get("num_attention_heads")
    if n_heads is None:
        # The library's default width of a head.
        n_heads, assumed = inner // 64, (*assumed, f"{inner // 64} heads, each of width 64")
    if n_heads == 0 or inner % n_heads:
        raise InputError(f"q, k and v have {inner} numbers, which {n_heads} heads cannot share: pass n_heads=")
    # One head of the stream's width has no map behind it.
    ours |= _maps_behind(ours, depth, inner)
    patch, image_size, channels = _geometry(ours, config, n_class_tokens)
    norm = layer_norm(config, 1e-5)
    keywords: dict[str, Any] = {
        "img_size": image_size,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": n_heads,
        "mlp_ratio": ours["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "qkv_bias": False,
        "class_token": n_class_tokens > 0,
        "global_pool": "avg" if means else "token",
        "pool_include_prefix": means,
        "fc_norm": False,
        "num_classes": len(ours["head.weight"]) if "head.weight" in ours else 0,
        "norm_layer": norm,
        "dtype": dtype,
    }
    parts: dict[str, Any] = {"patch_embed": partial(PixelStem, image_size, patch, channels, width, norm)}
    if inner != width:
        # Block by block, since timm's model makes heads that share the stream's width.
        attention = partial(TimmAttention, width, n_heads, attn_head_dim=inner // n_heads)
        parts |= {f"blocks.{i}.attn": attention for i in range(depth)}
        # timm's model needs some number that divides the width; the attentions above take its place.
        keywords["num_heads"] = 1
    colours = IMAGENET_COLOURS | {"crop_pct": 1.0, "crop_mode": "squash"}
    return Recipe(VisionTransformer, keywords, ours | rest, parts, colours, assumed=assumed)


def _maps_behind(ours: State, depth: int, inner: int) -> dict[str, Tensor]:
    """The output maps that the source has in no block: the identity, or a bias of zero."""
    found: dict[str, Tensor] = {}
    present = {of_any_block(name) for name in ours}
    for block in range(depth):
        name = f"blocks.{block}.attn.proj"
        like = ours[f"blocks.{block}.attn.qkv.weight"]
        if of_any_block(f"{name}.weight") not in present:
            found[f"{name}.weight"] = torch.eye(inner, dtype=like.dtype, device=like.device)
        if of_any_block(f"{name}.bias") not in present:
            found[f"{name}.bias"] = like.new_zeros(like.shape[1])
    return found


def _geometry(ours: State, config: Config, n_class_tokens: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Patch size, picture size and channels; the tensors show the number of pixels and of patches, of squares then."""
    n_pixels, n_patches = ours["patch_embed.proj.weight"].shape[1], ours["pos_embed"].shape[1] - n_class_tokens
    stem: Any = getattr(config.get("module"), "to_patch_embedding", None)
    if isinstance(stem, nn.Sequential) and hasattr(stem[0], "axes_lengths"):
        axes: Any = stem[0].axes_lengths
        patch, channels = (axes["p1"], axes["p2"]), n_pixels // (axes["p1"] * axes["p2"])
    else:
        channels = next((n for n in (3, 1, 4) if n_pixels % n == 0 and isqrt(n_pixels // n) ** 2 == n_pixels // n), 0)
        side = isqrt(n_pixels // channels) if channels else 0
        patch = side, side
    if not channels:
        raise InputError(
            f"patches of {n_pixels} numbers are no squares, whose sides a file would tell: pass the module"
        )
    size = config.get("img_size")
    rows, columns = patches_of_size(size, patch) if size else (isqrt(n_patches),) * 2
    if rows * columns != n_patches:
        raise InputError(
            f"{n_patches} patches have a position, which make no {rows} × {columns}: pass the height and width of the "
            "pictures as img_size="
        )
    return patch, size or (rows * patch[0], columns * patch[1]), channels


VIT_PYTORCH_MARKS = (
    "transformer.layers.0.0.to_qkv.weight",
    "transformer.layers.0.1.net.1.weight",
    "to_patch_embedding.2.weight",
    "transformer.norm.weight",
)
VIT_PYTORCH = Family("vit-pytorch ViT", (*VIT_PYTORCH_MARKS, "cls_token"), read_vit_pytorch)
SIMPLE_VIT = Family(
    "vit-pytorch SimpleViT", (*VIT_PYTORCH_MARKS, "linear_head.weight"), read_simple_vit, lacks=("cls_token",)
)
