"""Edits of what a matrix returns, at each hook point where that is one: W ← A W, b ← A b + c."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from vitlens.editing.changes import Change
from vitlens.editing.folding.affine import affine_of, refuse
from vitlens.editing.folding.shared import (
    absorb_layer_scale,
    add_to_bias,
    bias_of,
    block_of,
    into_norm,
    last_layer,
    maps_of,
    set_columns,
)
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.block import Part
from vitlens.model.parts.mlp import MLP


def _head_results(model: HookedViT, changes: list[Change]) -> None:
    """hook_result: each head's columns of W_O as a map into the stream; what all heads add goes into b_O."""
    attn = block_of(model, changes[0]).attn
    n_heads, width, d_model = attn.W_O.shape
    absorb_layer_scale(model, attn.gamma, attn.proj)
    maps = maps_of(attn.proj)
    weight = torch.cat([one.weight for one in maps], dim=1)
    added = weight.new_zeros(n_heads, d_model)
    for change in changes:
        heads = range(n_heads) if change.units is None else change.units
        affine = affine_of(model, change, len(heads), d_model)
        for head, shift in zip(heads, affine.shift, strict=True):
            columns = slice(head * width, (head + 1) * width)
            weight[:, columns] = affine.times(weight[:, columns])
            added[head] = affine.times(added[head]) + shift
    set_columns(maps, weight)
    add_to_bias(changes[0].hook, bias_of(maps[0]), added.sum(dim=0))


def _one_by_one(rule: Callable[[HookedViT, Change], None], model: HookedViT, changes: list[Change]) -> None:
    for change in changes:
        rule(model, change)


def _written(part: Part, model: HookedViT, change: Change) -> None:
    """hook_attn_out and hook_mlp_out: W ← A W, b ← A b + c; where a norm follows, that norm."""
    block = block_of(model, change)
    writer: Attention | MLP = block.attn if part == "attn" else block.mlp
    affine = affine_of(model, change, None, model.cfg.d_model)
    norm = block.norm_behind(part)
    if norm is not None:
        into_norm(norm, change.hook, affine, is_before=False)
        return
    linear = block.attn.proj if part == "attn" else block.mlp.fc2
    absorb_layer_scale(model, writer.gamma, linear)
    maps = maps_of(linear)
    for one in maps:
        one.weight.copy_(affine.times(one.weight))
        if one.bias is not None:
            one.bias.copy_(affine.times(one.bias))
    add_to_bias(change.hook, bias_of(maps[0]), affine.shift)


def _embedding(model: HookedViT, change: Change) -> None:
    """hook_resid_pre of block 0: all that is written before the blocks. c goes into each token once."""
    embed: Any = model.embed
    stem = embed.patch_embed
    if model.ln_pre is not None:
        refuse(change.hook, "a norm (norm_pre) stands between the embedding and the blocks")
    if type(stem) is not PatchEmbed or not isinstance(stem.norm, nn.Identity) or type(stem.proj) is not nn.Conv2d:
        refuse(change.hook, f"the stem ({type(stem).__name__}) does not end in a plain convolution of patches")
    affine = affine_of(model, change, None, model.cfg.d_model)
    stem.proj.weight.copy_(affine.times(stem.proj.weight))
    if stem.proj.bias is not None:
        stem.proj.bias.copy_(affine.times(stem.proj.bias))
    add_to_bias(change.hook, stem.proj.bias, affine.shift)
    for tokens in embed.prefix:
        tokens.copy_(affine.times(tokens[0].T).T + affine.shift)
    if embed.pos_embed is not None:
        embed.pos_embed.copy_(affine.times(embed.pos_embed[0].T).T)


def _logits(model: HookedViT, change: Change) -> None:
    if model.unembed is None:
        refuse(change.hook, "the model has no classifier")
    affine = affine_of(model, change, None, model.cfg.n_classes)
    for head in model.classifiers:
        layer = last_layer(head, change.hook)
        layer.weight.copy_(affine.times(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(affine.times(layer.bias))
        add_to_bias(change.hook, layer.bias, affine.shift)


#: Each puts the changes at this hook point into the parameters of a model, in place.
WRITERS: dict[str, Callable[[HookedViT, list[Change]], None]] = {
    "attn.result": _head_results,
    "attn_out": partial(_one_by_one, partial(_written, "attn")),
    "mlp_out": partial(_one_by_one, partial(_written, "mlp")),
    "hook_logits": partial(_one_by_one, _logits),
    # Of block 0.
    "resid_pre": partial(_one_by_one, _embedding),
}
