"""Steps that rules of folding share: maps side by side, biases, LayerScale, norms behind a part, layers of classifiers."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from vitlens.editing.changes import Change
from vitlens.editing.folding.affine import Affine, refuse
from vitlens.model.class_space.classifier import ClassEmbeddings, Classifier
from vitlens.model.class_space.layered import LayeredClassifier
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import block_and_site
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.linear import LinearMap, LinearSlice, ParallelOut
from vitlens.model.parts.norm import Norm


def block_of(model: HookedViT, change: Change) -> AnyBlock:
    place = block_and_site(change.hook)
    assert place is not None
    return model.blocks[place[0]]


def maps_of(linear: LinearMap) -> list[nn.Linear | LinearSlice]:
    """The maps of the branches side by side, or the one there is; their weights are views of parameters."""
    return list(linear.maps) if isinstance(linear, ParallelOut) else [linear]  # type: ignore[list-item]


def set_columns(maps: list[nn.Linear | LinearSlice], weight: Tensor) -> None:
    widths = [one.weight.shape[1] for one in maps]
    for one, part in zip(maps, weight.split(widths, dim=1), strict=True):
        one.weight.copy_(part)


def bias_of(linear: LinearMap) -> Tensor | None:
    """Where what a map adds can go: its own bias, or that of the whole layer that it is a part of."""
    if isinstance(linear, LinearSlice) and linear.bias is None and linear.linear.bias is not None:
        return linear.linear.bias[linear.rows]
    return linear.bias


def add_to_bias(hook: str, bias: Tensor | None, added: Tensor) -> None:
    if bias is not None:
        bias.add_(added)
    elif added.any():
        refuse(
            hook,
            "the checkpoint has no bias there for what takes the place of its values (zero, and directions without a mean, "
            "need none)",
        )


def into_norm(norm: Norm, hook: str, affine: Affine, is_before: bool) -> None:
    """The norm between a part and the stream: w ← (1 − dose) w; `is_before` its affine part, or behind it."""
    if not affine.scales:
        refuse(hook, "a norm stands between the weights and the stream, and its own weights scale and shift alone")
    if norm.weight is None:
        refuse(hook, "the norm between the weights and the stream has no weights")
    added = norm.weight * affine.shift if is_before else affine.shift
    norm.weight.mul_(1 - affine.dose)
    if norm.bias is not None and not is_before:
        norm.bias.mul_(1 - affine.dose)
    add_to_bias(hook, norm.bias, added)


def absorb_layer_scale(model: HookedViT, gamma: Tensor | None, linear: LinearMap) -> None:
    """W ← diag(γ) W, b ← γ b, γ ← 1 in every map that the γ of this one follows; branches have γs of their own."""
    for own in [gamma, *(linear.gammas if isinstance(linear, ParallelOut) else [])]:
        if own is None:
            continue
        for scaled in (one for one, by in _scaled_maps(model) if by is own):
            scaled.weight.mul_(own[:, None])
            if scaled.bias is not None:
                scaled.bias.mul_(own)
        own.fill_(1)


def _scaled_maps(model: HookedViT) -> Iterator[tuple[LinearMap, Tensor | None]]:
    """Every map that writes to the stream, with the γ that follows it: branches in parallel may share one."""
    for block in model.blocks:
        for part, linear in ((block.attn, block.attn.proj), (block.mlp, block.mlp.fc2)):
            if isinstance(linear, ParallelOut):
                yield from zip(linear.maps, list(linear.gammas) or [None] * len(linear.maps), strict=True)
            else:
                yield linear, part.gamma


def first_layer(classifier: Classifier, hook: str) -> nn.Linear:
    """The linear layer that reads what the classifier reads."""
    if isinstance(classifier, ClassEmbeddings):
        if classifier.projection is not None:
            return first_layer(classifier.projection, hook)
        if classifier.normalise:
            refuse(hook, "what the class embeddings read is divided by its length first")
        return _with_bias(classifier.linear)
    return _plain(classifier.layers[0] if isinstance(classifier, LayeredClassifier) else classifier, hook)


def last_layer(classifier: Classifier, hook: str) -> nn.Linear:
    """The linear layer that returns the logits."""
    if isinstance(classifier, ClassEmbeddings):
        return _with_bias(classifier.linear)
    return _plain(classifier.layers[-1] if isinstance(classifier, LayeredClassifier) else classifier, hook)


def _with_bias(linear: nn.Linear) -> nn.Linear:
    """Class embeddings are in no checkpoint, so they may get a bias."""
    if linear.bias is None:
        linear.register_parameter("bias", nn.Parameter(linear.weight.new_zeros(linear.out_features)))
    return linear


def _plain(layer: Any, hook: str) -> nn.Linear:
    if type(layer) is not nn.Linear or layer._forward_pre_hooks:
        refuse(hook, f"the classifier has a {type(layer).__name__} there, and no plain linear layer")
    return layer
