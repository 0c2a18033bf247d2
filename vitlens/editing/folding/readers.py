"""Edits of what multiplies a matrix, at each hook point where there is one: W ← W A, b ← b + W c."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vitlens.editing.changes import Change
from vitlens.editing.folding.affine import Affine, affine_of, refuse
from vitlens.editing.folding.shared import (
    absorb_layer_scale,
    add_to_bias,
    bias_of,
    block_of,
    first_layer,
    into_norm,
    maps_of,
    set_columns,
)
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.linear import LinearMap, ParallelIn, ParallelOut
from vitlens.model.parts.mlp import GatedMLP
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MeanPool
from vitlens.model.parts.projections import FusedProjection, SplitProjection


class ReadingRows(NamedTuple):
    """Rows of a linear map that read what a norm returns: views of the parameters.

    `unseen`: whether what is added to these rows changes nothing, as softmax sees no constant of all keys.
    """

    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    unseen: bool = False


def _heads_before_output(model: HookedViT, change: Change) -> None:
    """hook_z: columns of W_O."""
    attn = block_of(model, change).attn
    n_heads, width = attn.W_O.shape[:2]
    heads = range(n_heads) if change.units is None else change.units
    affine = affine_of(model, change, len(heads), width)
    columns = [torch.arange(head * width, (head + 1) * width) for head in heads]
    _into_columns(model, attn.proj, change.hook, columns, affine)


def _neurons_before_output(model: HookedViT, change: Change) -> None:
    """hook_post: columns of W_out."""
    mlp = block_of(model, change).mlp
    neurons = torch.arange(mlp.W_out.shape[0]) if change.units is None else torch.tensor(change.units)
    affine = affine_of(model, change, None, len(neurons))
    _into_columns(model, mlp.fc2, change.hook, [neurons], affine)


def _into_columns(model: HookedViT, linear: LinearMap, hook: str, columns: list[Tensor], affine: Affine) -> None:
    """W ← W A in each of these sets of columns, b ← b + Σ W c."""
    if isinstance(linear, ParallelOut):
        absorb_layer_scale(model, None, linear)
    maps = maps_of(linear)
    weight = torch.cat([one.weight for one in maps], dim=1)
    new, added = weight.clone(), weight.new_zeros(len(weight))
    for chosen, shift in zip(columns, affine.shift.reshape(len(columns), -1), strict=True):
        new[:, chosen] = affine.before(weight[:, chosen])
        added += weight[:, chosen] @ shift
    set_columns(maps, new)
    add_to_bias(hook, bias_of(maps[0]), added)


def _norm_of_block(model: HookedViT, change: Change) -> None:
    """ln1 or ln2: the maps that read what it returns."""
    block = block_of(model, change)
    is_first = ".ln1." in change.hook
    norm = block.ln1 if is_first else block.ln2
    width = block.attn.W_O.shape[-1]
    affine = affine_of(model, change, None, width)
    if block.norms_behind:
        into_norm(norm, change.hook, affine, is_before=True)
        return
    readers = _readers_of_attention(block.attn, norm) if is_first else []
    if not is_first or not hasattr(block, "ln2"):
        if getattr(block.mlp, "ln_in", None) is not None:
            refuse(change.hook, "a norm of the MLP's own reads it")
        readers += _readers_of_map(block.mlp.fc1, norm)
        if isinstance(block.mlp, GatedMLP):
            readers += _readers_of_map(block.mlp.gate, norm)
    _into_readers(change.hook, readers, affine)


def _readers_of_attention(attn: Attention, norm: Norm) -> list[ReadingRows]:
    project = attn.project
    # A rotation turns what is added to a key by its position, and a norm of keys divides by it.
    unseen = attn.k_norm is None and attn.rotation is None
    readers: list[ReadingRows] = []
    if isinstance(project, FusedProjection):
        biases = (project.q_bias, None, project.v_bias) if project.has_separate_biases else _thirds(project.qkv.bias)
        for i, (weight, bias) in enumerate(zip(project.qkv.weight.chunk(3), biases, strict=True)):
            readers.append(ReadingRows(weight, bias, norm.weight, norm.bias, unseen and i == 1))
    else:
        assert isinstance(project, SplitProjection)
        for i, linear in enumerate((project.q, project.k, project.v)):
            readers += [reader._replace(unseen=unseen and i == 1) for reader in _readers_of_map(linear, norm)]
    return readers + ([] if attn.gate is None else _readers_of_map(attn.gate, norm))


def _thirds(bias: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None,) * 3 if bias is None else bias.chunk(3)


def _readers_of_map(linear: LinearMap, norm: Norm) -> list[ReadingRows]:
    if not isinstance(linear, ParallelIn):
        return [ReadingRows(linear.weight, linear.bias, norm.weight, norm.bias)]
    # Each branch has an affine part of its own behind the norm that they share.
    shifts = list(linear.norm_biases) or [None] * len(linear.maps)
    return [
        ReadingRows(one.weight, one.bias, scale, shift)
        for one, scale, shift in zip(linear.maps, linear.norm_weights, shifts, strict=True)
    ]


def _final_norm(model: HookedViT, change: Change) -> None:
    """ln_final: the classifier, or the keys and values of attention pooling."""
    norm = model.ln_final
    assert norm is not None
    affine = affine_of(model, change, None, model.cfg.d_model)
    if isinstance(model.pool, AttentionPool):
        _into_readers(change.hook, _readers_of_pool(model.pool, norm), affine)
        return
    if model.fc_norm is not None:
        refuse(change.hook, "another norm (fc_norm) stands between it and the classifier")
    if not isinstance(model.pool, (MeanPool, ClassAndMeanPool)):
        refuse(change.hook, "a maximum over tokens stands between it and the classifier")
    heads = [first_layer(head, change.hook) for head in (model.unembed, model.unembed_dist) if head is not None]
    if not heads:
        refuse(change.hook, "the model has no classifier that reads it")
    halves = 2 if isinstance(model.pool, ClassAndMeanPool) else 1
    readers = [
        ReadingRows(weight, head.bias, norm.weight, norm.bias)
        for head in heads
        for weight in head.weight.chunk(halves, dim=1)
    ]
    _into_readers(change.hook, readers, affine)


def _readers_of_pool(pool: AttentionPool, norm: Norm) -> list[ReadingRows]:
    keys, values = pool.kv.weight.chunk(2)
    of_keys, of_values = (None, None) if pool.kv.bias is None else pool.kv.bias.chunk(2)
    return [
        ReadingRows(keys, of_keys, norm.weight, norm.bias, unseen=pool.k_norm is None),
        ReadingRows(values, of_values, norm.weight, norm.bias),
    ]


def _classifier_input(model: HookedViT, change: Change) -> None:
    """fc_norm, hook_pooled and hook_pooled_dist: the classifier that reads it."""
    is_second = change.hook == "hook_pooled_dist"
    norm = model.fc_norm
    if change.hook == "hook_pooled" and norm is not None:
        refuse(
            change.hook,
            "a norm (fc_norm) stands between it and the classifier (fc_norm.hook_normalized is behind its scale)",
        )
    classifier = model.unembed_dist if is_second else model.unembed
    if classifier is None:
        refuse(change.hook, "the model has no classifier that reads it")
    layer = first_layer(classifier, change.hook)
    affine = affine_of(model, change, None, layer.in_features)
    scale, shift = (None, None) if norm is None or is_second else (norm.weight, norm.bias)
    _into_readers(change.hook, [ReadingRows(layer.weight, layer.bias, scale, shift)], affine)


def _into_readers(hook: str, readers: list[ReadingRows], affine: Affine) -> None:
    """W ← W diag(w) A and b ← b + W (w c + the norm's bias), after which the norms have weights 1 and biases 0."""
    for reader in readers:
        scaled = reader.weight if reader.norm_weight is None else reader.weight * reader.norm_weight
        added = scaled @ affine.shift
        if reader.norm_bias is not None:
            added = added + reader.weight @ reader.norm_bias
        reader.weight.copy_(affine.before(scaled))
        if reader.bias is not None:
            reader.bias.add_(added)
        elif added.any() and not reader.unseen:
            refuse(
                hook,
                "a layer that reads it has no bias in the checkpoint, for the norm's own bias and what the edit adds",
            )
    for reader in readers:
        if reader.norm_weight is not None:
            reader.norm_weight.fill_(1)
        if reader.norm_bias is not None:
            reader.norm_bias.zero_()


#: Each puts a change at this hook point into the parameters of a model, in place.
READERS: dict[str, Callable[[HookedViT, Change], None]] = {
    "attn.z": _heads_before_output,
    "mlp.post": _neurons_before_output,
    "ln1.normalized": _norm_of_block,
    "ln2.normalized": _norm_of_block,
    "ln_final.hook_normalized": _final_norm,
    "fc_norm.hook_normalized": _classifier_input,
    "hook_pooled": _classifier_input,
    "hook_pooled_dist": _classifier_input,
}
