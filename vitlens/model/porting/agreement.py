"""Compares the parts of a timm module with its attributes: a part that was replaced by hand leaves these unchanged.

Sizes are read off the parts. Where timm's forward goes by an attribute that the parts contradict, the module is refused.
"""

from math import prod
from typing import Any

import torch
from timm.layers import PatchEmbed, to_2tuple
from torch import nn

from vitlens.errors import InputError, reason
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.embedding import Embedding
from vitlens.model.parts.naflex import NaFlexEmbedding


def count_channels(stem: nn.Module) -> int:
    """The channels that the first layer of the stem reads."""
    for layer in stem.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    proj: Any = stem.proj
    return int(proj.in_features) // prod(to_2tuple(stem.patch_size))


def read_geometry(embedding: Embedding) -> tuple[tuple[int, int], tuple[int, int]]:
    """Picture size and grid of a stem of one size.

    Raises:
        InputError: there is no size.
    """
    stem = embedding.patch_embed
    if stem.img_size is None or stem.grid_size is None:
        raise InputError("patch_embed.img_size is None: say which pictures the model reads with module.set_input_size")
    image_size, grid = tuple(to_2tuple(stem.img_size)), tuple(stem.grid_size)
    if 0 in grid:
        raise InputError(
            f"pictures of {image_size[0]} × {image_size[1]} hold no patch: load the model with a larger img_size="
        )
    return image_size, grid


@torch.no_grad()
def check_embedding(embedding: Embedding, channels: int) -> int:
    """The width of the stream that a stem of one size makes of pictures of its size.

    Raises:
        InputError: patches, positions or prefix tokens that do not go together.
    """
    (height, width), grid = read_geometry(embedding)
    stem, n_patches = embedding.patch_embed, grid[0] * grid[1]
    try:
        # The stem is run, because its attributes need not say how many patches it makes.
        made = embedding.patches(embedding.patch_embed_weight.new_zeros(1, channels, height, width))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise InputError(f"patch_embed cannot read {channels} × {height} × {width}: {reason(error)}") from None
    patch = tuple(stem.feat_ratio(as_scalar=False))
    told = tuple(side // one for side, one in zip((height, width), patch, strict=True))
    if made.shape[1] != n_patches or (type(stem) is PatchEmbed and not embedding.pads and told != grid):
        raise InputError(
            f"patch_embed makes {made.shape[1]} patches of a picture of {height} × {width}, and its attributes say "
            f"{grid[0]} × {grid[1]} of {patch[0]} × {patch[1]}: change sizes with "
            "module.set_input_size(img_size, patch_size), or build the model again"
        )
    d_model = int(made.shape[2])
    for token in embedding.prefix:
        if token.shape[-1] != d_model:
            raise InputError(f"patch_embed makes patches of width {d_model}, and a prefix token has {token.shape[-1]}")
    if embedding.pos_embed is not None:
        rows = n_patches + (0 if embedding.no_embed_class else embedding.n_prefix_tokens)
        if embedding.pos_embed.shape[-2:] != (rows, d_model):
            raise InputError(
                f"pos_embed is {' × '.join(map(str, embedding.pos_embed.shape[-2:]))}, and the model has {rows} tokens with "
                f"a position, of width {d_model}: change the size of pictures with module.set_input_size"
            )
    return d_model


def check_prefix(module: Any, prefix_tokens: tuple[str, ...]) -> None:
    """Raises InputError where timm counts other prefix tokens than there are, and would pool and rotate other tokens; or
    where it would read the first patch as if it were the class token."""
    n_prefix_tokens = len(prefix_tokens)
    reads_class_token = module.global_pool in ("token", "class+mean") and getattr(module, "attn_pool", None) is None
    if reads_class_token and "class" not in prefix_tokens:
        raise InputError(
            f'global_pool is "{module.global_pool}", and the model has no class token: build it with global_pool="avg"'
        )
    attentions = {f"blocks.{i}.attn.": getattr(block, "attn", None) for i, block in enumerate(module.blocks)}
    for where, part in {"": module, **attentions}.items():
        told = getattr(part, "num_prefix_tokens", n_prefix_tokens)
        if told != n_prefix_tokens:
            raise InputError(
                f"{where}num_prefix_tokens is {told}, and the model has {n_prefix_tokens} class and register tokens: "
                "build it with class_token= and reg_tokens= as they are meant"
            )


def check_blocks_alike(blocks: list[AnyBlock]) -> None:
    """Raises InputError where blocks have other numbers of heads or neurons than the first."""
    kinds = [
        {"heads": block.attn.n_heads, "d_head": block.attn.W_O.shape[1], "neurons": block.mlp.fc1.weight.shape[0]}
        for block in blocks
    ]
    for i, kind in enumerate(kinds):
        other = next((name for name in kind if kind[name] != kinds[0][name]), None)
        if other is not None:
            raise InputError(
                f"blocks.{i} has {kind[other]} {other} and blocks.0 has {kinds[0][other]}: vitlens ports models whose "
                "blocks are of one size"
            )


def stream_width(embedding: Embedding, channels: int) -> int:
    """The width of the stream, after the checks that a stem of one size allows."""
    if isinstance(embedding, NaFlexEmbedding):
        return int(embedding.patch_embed.embed_dim)
    return check_embedding(embedding, channels)
