"""Paths of length two: what each part of the network adds to the logit through the values of a later head."""

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.run import (
    Kept,
    Wanted,
    Written,
    unchanged,
    wanted_embedding,
    wanted_heads,
    wanted_pattern,
    written,
)
from vitlens.attribution.values import ValueRoute, shares_of_biases, through_sub_norm, value_routes
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.block import AnyBlock
from vitlens.results.axes import ComponentLabel


def wanted_paths(model: HookedViT) -> Wanted:
    """Everything that writes, at all tokens; what heads read it with; the scale of the norm before them."""
    wanted = wanted_embedding(model, unchanged)
    for index in range(model.cfg.n_layers):
        wanted |= wanted_heads(model, index, unchanged) | wanted_pattern(model, index)
        wanted |= {hook_name(index, "ln1.scale"): unchanged, hook_name(index, "mlp_out"): unchanged}
    return wanted


def path_shares(
    model: HookedViT, kept: Kept, readouts: Sequence[ChosenReadout]
) -> tuple[list[ComponentLabel], Float[Tensor, "image class block head writer"]]:
    """The writers' names, and what each put into the values of each head, as a share of the logit."""
    parts = list(written(model, kept))
    names = [label for part in parts for label in part.labels]
    n_images, n_classes = readouts[0].constant.shape
    shape = (n_images, n_classes, model.cfg.n_layers, model.cfg.n_heads, len(names) + 1)
    shares = readouts[0].constant.new_zeros(shape)
    for index, block in enumerate(model.blocks):
        scale = None if block.norms_behind else kept[hook_name(index, "ln1.scale")]
        routes = list(value_routes(block, index, kept, readouts))
        place = 0
        for part in parts:
            if part.block >= index:
                break
            read = part.z if scale is None else part.z / scale[..., None]
            to_values = into_values(block, part)
            for route in routes:
                shares[:, :, index, :, place : place + len(part.labels)] += route.by_unit(read, to_values)
            place += len(part.labels)
        for route in routes:
            shares[:, :, index, :, -1] += _of_constant(route, _constant_values(block))
        biases = shares_of_biases(block, index, kept, readouts)
        if biases is not None:
            shares[:, :, index, :, -1] += biases
    return [*names, ComponentLabel("value bias", "bias")], shares


def into_values(block: AnyBlock, part: Written) -> Float[Tensor, "unit width head d_head"]:
    """From what a part wrote to the values of a later block's heads, the scale of the norm between them left out."""
    W_V = rearrange(_behind_the_norm(block), "h e d -> h d e")
    if part.W is None:
        return rearrange(W_V, "h d e -> 1 d h e")
    return einsum(part.W, W_V, "k f d, h d e -> k f h e")


def _behind_the_norm(block: AnyBlock) -> Float[Tensor, "head d_head d"]:
    """W_V of each head with the norm before it, and with the norm inside differential attention."""
    W_V = rearrange(through_sub_norm(block.attn, block.attn.W_V), "h d e -> h e d")
    norm = block.norm_before("attn")
    return W_V if norm is None else norm.pull_back(W_V)


def _constant_values(block: AnyBlock) -> Float[Tensor, "head d_head"]:
    """The values of a token where nothing is written: the biases of the norm and of the values."""
    constant, norm = block.attn.b_V, block.norm_before("attn")
    if norm is not None and norm.bias is not None:
        constant = constant + einsum(norm.bias, block.attn.W_V, "d, h d e -> h e")
    return through_sub_norm(block.attn, constant)


def _of_constant(
    route: ValueRoute, constant: Float[Tensor, "head d_head"]
) -> Float[Tensor, "image class head"]:  # fmt: skip
    n_images, n_sources = route.reach.shape[0], route.reach.shape[2]
    one = torch.ones(n_images, n_sources, 1, 1, dtype=constant.dtype, device=constant.device)
    return route.by_unit(one, rearrange(constant, "h e -> 1 1 h e"))[..., 0]
