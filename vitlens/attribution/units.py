"""Defines, for each unit of attribution, which activations are kept and how the logit is split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.paths import path_shares, wanted_paths
from vitlens.attribution.results import (
    Attribution,
    NeuronAttribution,
    PatchAttribution,
    PathAttribution,
    TokenAttribution,
)
from vitlens.attribution.run import (
    Kept,
    Wanted,
    Written,
    first_tokens,
    n_tokens_read,
    sum_of,
    unchanged,
    wanted_embedding,
    wanted_heads,
    wanted_neurons,
    wanted_pattern,
    written,
)
from vitlens.attribution.values import shares_of_biases, through_sub_norm, value_routes
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.results.axes import ComponentLabel, TokenLabel, head_bias_label

Readouts = Sequence[ChosenReadout]


@dataclass(frozen=True)
class Split:
    """The shares of the units, the axes after "class", and the shares of everything that is no such unit, by label."""

    values: Float[Tensor, "image class *unit"]
    axes: dict[str, list]
    elsewhere: dict[ComponentLabel, Float[Tensor, "image class"]]


@dataclass(frozen=True)
class Unit:
    """What to keep of a forward, how to split the logit by it, and as what kind of result."""

    wanted: Callable[[HookedViT], Wanted]
    split: Callable[[HookedViT, Kept, Readouts, list[TokenLabel]], Split]
    result: type[Attribution]


def fixed_terms(readouts: Readouts) -> dict[ComponentLabel, Float[Tensor, "image class"]]:
    """The parts of the logit that nothing in the stream wrote: the MLP of attention pooling, what a classifier of several
    layers adds to its linear part, the constant."""
    names = dict.fromkeys(name for reader in readouts for name in reader.terms)
    behind = {
        ComponentLabel(name, "mlp" if name == "pool mlp" else "rest"): sum_of(
            [reader.terms[name] for reader in readouts if name in reader.terms]
        )
        for name in names
    }
    return {**behind, ComponentLabel("constant", "constant"): sum_of([reader.constant for reader in readouts])}


def _parts(
    readouts: Readouts, parts: Sequence[Written], kinds: Sequence[str] = ("stream",)
) -> dict[ComponentLabel, Float[Tensor, "image class"]]:
    """The direct shares of what is of these kinds, by label."""
    return {
        label: share
        for part in parts
        if part.kind in kinds
        for label, share in zip(part.labels, part.share(readouts).unbind(dim=-1), strict=True)
    }


def _wanted_components(model: HookedViT) -> Wanted:
    cut = first_tokens(n_tokens_read(model))
    wanted = wanted_embedding(model, cut)
    for block in range(model.cfg.n_layers):
        wanted |= {hook_name(block, "attn_out"): cut, hook_name(block, "mlp_out"): cut}
    return wanted


def _wanted_heads(model: HookedViT) -> Wanted:
    cut = first_tokens(n_tokens_read(model))
    wanted = wanted_embedding(model, cut)
    for block in range(model.cfg.n_layers):
        wanted |= wanted_heads(model, block, cut) | {hook_name(block, "mlp_out"): cut}
    return wanted


def _wanted_patches(model: HookedViT) -> Wanted:
    wanted = _wanted_heads(model)
    for block in range(model.cfg.n_layers):
        wanted |= wanted_pattern(model, block) | {hook_name(block, "attn.v"): unchanged}
    return wanted


def _wanted_neurons(model: HookedViT) -> Wanted:
    cut = first_tokens(n_tokens_read(model))
    wanted = wanted_embedding(model, cut)
    for block in range(model.cfg.n_layers):
        wanted |= {hook_name(block, "attn_out"): cut} | wanted_neurons(model, block, cut)
    return wanted


def _split_components(model: HookedViT, kept: Kept, readouts: Readouts, tokens: list[TokenLabel]) -> Split:
    shares = _parts(readouts, list(written(model, kept)), ("stream", "head")) | fixed_terms(readouts)
    return Split(torch.stack(list(shares.values()), dim=-1), {"component": list(shares)}, {})


def _split_patches(model: HookedViT, kept: Kept, readouts: Readouts, tokens: list[TokenLabel]) -> Split:
    elsewhere = _parts(readouts, list(written(model, kept)))
    n_images, n_classes = readouts[0].constant.shape
    shape = (n_images, n_classes, model.cfg.n_layers, model.cfg.n_heads, len(tokens))
    values = readouts[0].constant.new_zeros(shape)
    for index, block in enumerate(model.blocks):
        v = through_sub_norm(block.attn, kept[hook_name(index, "attn.v")])
        for route in value_routes(block, index, kept, readouts):
            values[:, :, index] += route.by_source(v)
        biases = shares_of_biases(block, index, kept, readouts)
        if biases is not None:
            elsewhere |= {head_bias_label(index, head): share for head, share in enumerate(biases.unbind(dim=-1))}
    axes: dict[str, list] = {"block": list(range(shape[2])), "head": list(range(shape[3])), "source": tokens}
    return Split(values, axes, elsewhere | fixed_terms(readouts))


def _split_neurons(model: HookedViT, kept: Kept, readouts: Readouts, tokens: list[TokenLabel]) -> Split:
    parts = list(written(model, kept))
    values = torch.stack([part.share(readouts) for part in parts if part.kind == "neuron"], dim=2)
    axes = {"block": list(range(values.shape[2])), "neuron": list(range(values.shape[3]))}
    return Split(values, axes, _parts(readouts, parts) | fixed_terms(readouts))


def _split_tokens(model: HookedViT, kept: Kept, readouts: Readouts, tokens: list[TokenLabel]) -> Split:
    parts = list(written(model, kept))
    read = range(len(tokens))[model.read_tokens]
    chosen = range(2) if model.is_distilled else read
    values = torch.stack([part.token_share(readouts, parts[0].z.shape[1]) for part in parts], dim=2)
    axes: dict[str, list] = {
        "component": [part.labels[0] for part in parts],
        "token": [tokens[token] for token in chosen],
    }
    return Split(values[..., chosen.start : chosen.stop], axes, fixed_terms(readouts))


def _split_paths(model: HookedViT, kept: Kept, readouts: Readouts, tokens: list[TokenLabel]) -> Split:
    writers, values = path_shares(model, kept, readouts)
    axes: dict[str, list] = {
        "block": list(range(values.shape[2])),
        "head": list(range(values.shape[3])),
        "writer": writers,
    }
    return Split(values, axes, _parts(readouts, list(written(model, kept))) | fixed_terms(readouts))


UNITS = {
    "component": Unit(_wanted_components, _split_components, Attribution),
    "head": Unit(_wanted_heads, _split_components, Attribution),
    "head_patch": Unit(_wanted_patches, _split_patches, PatchAttribution),
    "neuron": Unit(_wanted_neurons, _split_neurons, NeuronAttribution),
    "token": Unit(_wanted_components, _split_tokens, TokenAttribution),
    "path": Unit(wanted_paths, _split_paths, PathAttribution),
}
