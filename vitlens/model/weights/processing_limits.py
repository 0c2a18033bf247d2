"""Says why a rewrite of the weights would not be exact: one sentence for each obstacle, None if it is exact."""

from collections.abc import Callable
from typing import Any

from timm.layers import HybridEmbed
from torch import nn

from vitlens.model.class_space.layered import LayeredClassifier
from vitlens.model.parts.pooling import AttentionPool, MaxPool


def fold_ln(model: Any) -> str | None:
    if model.blocks[0].norms_behind:
        return "its norms follow attention and MLP, where no linear map reads them"
    if any(getattr(block.mlp, "ln_in", None) is not None for block in model.blocks):
        return "a norm of the MLP's own reads what ln2 returns"
    if model.ln_final is not None and model.fc_norm is not None:
        return "the final norm is followed by another one (fc_norm)"
    if model.ln_final is not None and isinstance(model.pool, MaxPool):
        return "a maximum over tokens stands between the final norm and the classifier"
    norm = model.fc_norm if model.fc_norm is not None else model.ln_final
    pool_reads_it = isinstance(model.pool, AttentionPool) and model.fc_norm is None
    if norm is not None and not pool_reads_it and isinstance(model.unembed, LayeredClassifier):
        return "its classifier has layers of its own, which are taken as they are"
    return None


def fold_layer_scale(model: Any) -> str | None:
    return None


def center_writing_weights(model: Any) -> str | None:
    if model.blocks[0].norms_behind:
        return "attention and MLP read the stream without a norm that would forget its mean"
    if model.ln_pre is not None:
        return "norm_pre writes the stream, and no weight of it can be centred"
    readers = [norm for block in model.blocks for norm in (block.norm_of("attn"), block.norm_of("mlp"))]
    last = model.ln_final if model.ln_final is not None else model.fc_norm
    if last is None or not all(norm.centres for norm in [*readers, last]):
        return "not every norm that reads the stream forgets its mean (LayerNorm does)"
    if model.ln_final is None and not model.pool.is_mean:
        return "the stream is pooled before a norm, by a pooling that does not forget its mean"
    stem = model.embed.patch_embed
    proj_is_last = isinstance(getattr(stem, "norm", nn.Identity()), nn.Identity)
    if not proj_is_last or (isinstance(stem, HybridEmbed) and isinstance(stem.proj, nn.Identity)):
        return "the patch stem does not end in a linear map that could be centred"
    return None


def fold_value_biases(model: Any) -> str | None:
    if any(block.attn.subtracts_patterns for block in model.blocks):
        return "the rows of a differential pattern do not sum to 1, and a norm follows"
    if any(block.attn.ln_z is not None or block.attn.gate is not None for block in model.blocks):
        return "a norm or gate stands between the values and W_O"
    return None


def refactor_factored_attn_matrices(model: Any) -> str | None:
    if model.cfg.qk_norm:
        return "q and k are normalised before they meet"
    if "rotary" in model.cfg.positional_embedding_type:
        return "q and k are rotated before they meet"
    return fold_value_biases(model)


REFUSALS: dict[str, Callable[[Any], str | None]] = {
    "fold_ln": fold_ln,
    "fold_layer_scale": fold_layer_scale,
    "center_writing_weights": center_writing_weights,
    "fold_value_biases": fold_value_biases,
    "refactor_factored_attn_matrices": refactor_factored_attn_matrices,
}
