"""Reads the sizes of a model from its tensors by timm's names."""

from collections.abc import Sequence
from math import isqrt
from typing import Any

from timm.layers import to_2tuple

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config

#: Width of the stream → heads, of the published vision transformers (ViT, DeiT, DINO, MAE, CLIP, SigLIP).
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}


def read_sizes(state: State, image_size: Any = None) -> dict[str, Any]:
    """Keywords of timm's classes that the shapes tell: widths, patch and picture size, channels, classes, biases.

    Args:
        state: the tensors by timm's names.
        image_size: of the configuration: one number, or height and width. Without it the patches make a square.

    Raises:
        InputError: no picture size, and the positions are those of no square of patches.
    """
    stem = state["patch_embed.proj.weight"]
    width, channels, *patch = stem.shape
    first_map = "blocks.0.mlp.fc1_x.weight" if "blocks.0.mlp.fc1_x.weight" in state else "blocks.0.mlp.fc1.weight"
    return {
        "embed_dim": width,
        "in_chans": channels,
        "patch_size": tuple(patch),
        # Half a neuron more, because timm rounds the product down.
        "mlp_ratio": (len(state[first_map]) + 0.5) / width,
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "class_token": "cls_token" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "img_size": _square(state, patch) if image_size is None else to_2tuple(image_size),
    }


def _square(state: State, patch: Sequence[int]) -> tuple[int, int]:
    """The size of a square picture that has these positions."""
    if "pos_embed" not in state:
        raise InputError("the weights do not show the picture size: pass the folder with the model's config.json")
    n_prefix = sum(state[name].shape[1] for name in ("cls_token", "dist_token") if name in state)
    n_patches = state["pos_embed"].shape[1] - n_prefix
    side = isqrt(n_patches)
    if side**2 != n_patches:
        raise InputError(
            f"{n_patches} patches have a position, which make no square: give the picture size in config.json"
        )
    return side * patch[0], side * patch[1]


def read_heads(state: State, config: Config) -> tuple[int, tuple[str, ...]]:
    """The number of heads, and what had to be assumed for it: weights do not show it.

    Raises:
        InputError: no configuration, and no published model has this width.
    """
    if config.get("num_attention_heads"):
        return int(config["num_attention_heads"]), ()
    width = state["patch_embed.proj.weight"].shape[0]
    if width not in HEADS:
        raise InputError(
            f"the weights do not show how many heads a stream of width {width} has: pass n_heads=, or the folder with "
            "the model's config.json"
        )
    return HEADS[width], (f"{HEADS[width]} heads, as published models of width {width} have",)
