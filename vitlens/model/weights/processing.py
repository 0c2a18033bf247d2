"""Exact rewrites of the weights: the logits stay the same, and each matrix becomes simpler to read.

Each rewrite reads the weights in TransformerLens' layout and installs new ones in plain maps of the model's own, so the
timm module that the model was ported from keeps its parameters.
"""

import copy
from typing import TYPE_CHECKING, Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from vitlens.errors import InputError
from vitlens.model.class_space.classifier import ClassEmbeddings
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.linear import effective_bias, plain_linear
from vitlens.model.parts.mlp import GatedMLP
from vitlens.model.parts.naflex import NaFlexEmbedding
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import AttentionPool
from vitlens.model.parts.projections import FusedProjection
from vitlens.model.weights.processing_limits import REFUSALS

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


@torch.no_grad()
def process_weights_(
    model: "HookedViT",
    *,
    fold_ln: bool = False,
    fold_layer_scale: bool = False,
    center_writing_weights: bool = False,
    fold_value_biases: bool = False,
    refactor_factored_attn_matrices: bool = False,
) -> "HookedViT":
    """Rewrites the weights of this model in place; the logits change by rounding only. The timm module is not changed.

    Args:
        fold_ln: the affine part (w, c) of ln1, ln2 and of the norm before the classifier moves into the maps that
            read it: W ← diag(w) W, b ← b + c W. Kept if no linear map follows: norm_pre, q/k norms, and the final
            norm of a model without a classifier.
        fold_layer_scale: γ moves into W_O, b_O, W_out, b_out: W ← W diag(γ), b ← γ b.
        center_writing_weights: subtract the mean over d_model from everything that writes to the stream; every norm that
            reads the stream removes it anyway: W ← W − mean_d(W). LayerScale is folded with it.
        fold_value_biases: b_O ← b_O + Σ_heads b_V W_O, b_V ← 0, since each row of a pattern sums to 1.
        refactor_factored_attn_matrices: from the singular values of each head, W_Q W_Kᵀ = (U √S)(√S Vᵀ) with biases,
            and W_V W_O = (U S) Vᵀ, so that a head's dimensions are ordered and orthogonal.

    Returns:
        The model itself.

    Raises:
        InputError: a rewrite that is not exact for this architecture, with the reason; weights processed before;
            class embeddings set before; no rewrite is named.

    Source: TransformerLens' ProcessWeights; Elhage et al. 2021.
    """
    asked = {
        "fold_ln": fold_ln,
        "fold_layer_scale": fold_layer_scale,
        "center_writing_weights": center_writing_weights,
        "fold_value_biases": fold_value_biases,
        "refactor_factored_attn_matrices": refactor_factored_attn_matrices,
    }
    chosen = [name for name, wanted in asked.items() if wanted]
    _check_processing(model, chosen)
    for block in model.blocks:
        # All of these rewrites make plain linear maps, which have no separate LayerScale.
        _fold_layer_scale(block)
    if fold_ln:
        _fold_ln(model)
    if center_writing_weights:
        _center_writing_weights(model)
    for block in model.blocks:
        if fold_value_biases:
            _fold_value_biases(block.attn)
        if refactor_factored_attn_matrices:
            _refactor(block.attn)
    model.timm_module = None
    model.cfg.layer_scale = False
    model.cfg.processed = tuple(chosen)
    if fold_ln:
        model.cfg.layer_norm_folding = True
    return model


def _check_processing(model: "HookedViT", chosen: list[str]) -> None:
    if not chosen:
        raise InputError(f"no rewrite is named: pass one of {', '.join(REFUSALS)} as True")
    if model.cfg.processed:
        raise InputError(
            f"the weights were processed already ({', '.join(model.cfg.processed)}), and a second time need not be "
            "exact: port the timm model again and ask for all at once"
        )
    if isinstance(model.unembed, ClassEmbeddings):
        raise InputError("process the weights first and set class embeddings then")
    for name in chosen:
        reason = REFUSALS[name](model)
        if reason is not None:
            raise InputError(f"{name} is not exact for {model.cfg.model_name}: {reason}")


def _fold_ln(model: "HookedViT") -> None:
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        scale, shift = _take_affine(block.ln1, attn.b_O)
        matrices = [weight * scale[:, None] for weight in attn.project.matrices()]
        biases = [
            bias + einsum(shift, weight, "d, h d e -> h e")
            for bias, weight in zip(attn.project.biases(), attn.project.matrices(), strict=True)
        ]
        _set_qkv(attn, matrices, biases)
        if attn.gate is not None:
            attn.gate = _behind_affine(attn.gate, scale, shift)
        if hasattr(block, "ln2"):
            scale, shift = _take_affine(block.ln2, attn.b_O)
        mlp.fc1 = _behind_affine(mlp.fc1, scale, shift)
        if isinstance(mlp, GatedMLP):
            mlp.gate = _behind_affine(mlp.gate, scale, shift)
    _fold_final_norm(model)


def _fold_final_norm(model: "HookedViT") -> None:
    norm = model.ln_final if model.fc_norm is None else model.fc_norm
    if norm is None:
        return
    if isinstance(model.pool, AttentionPool) and model.fc_norm is None:
        model.pool.kv = _behind_affine(model.pool.kv, *_take_affine(norm, model.blocks[-1].mlp.b_out))
    elif model.unembed is not None:
        if norm is model.fc_norm:
            scale, shift = _take_affine(norm, model.unembed.weight[0])
        else:
            scale, shift = (model.pool.of_one(part) for part in _take_affine(norm, model.blocks[-1].mlp.b_out))
        model.unembed = _behind_affine(model.unembed, scale, shift)
        if model.unembed_dist is not None:
            model.unembed_dist = _behind_affine(model.unembed_dist, scale, shift)


def _center_writing_weights(model: "HookedViT") -> None:
    embed = model.embed
    embed.prefix = nn.ParameterList([_centred(token) for token in embed.prefix])
    if embed.pos_embed is not None:
        embed.pos_embed = _centred(embed.pos_embed)
    stem = embed.patch_embed = copy.deepcopy(embed.patch_embed)
    stem.proj.weight = _centred(stem.proj.weight, axis=0)
    if stem.proj.bias is not None:
        stem.proj.bias = _centred(stem.proj.bias)
    if isinstance(embed, NaFlexEmbedding):
        for name in ("pos_embed", "pos_embed_y", "pos_embed_x"):
            table = getattr(stem, name)
            if table is not None:
                setattr(stem, name, _centred(table))
    for block in model.blocks:
        for part in (block.attn.proj, block.mlp.fc2):
            part.weight = _centred(part.weight, axis=0)
            part.bias = _centred(part.bias)


def _take_affine(norm: Norm, like: Float[Tensor, "d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Takes the norm's weight and bias out of the norm."""
    scale = torch.ones_like(like) if norm.weight is None else norm.weight.detach()
    shift = torch.zeros_like(like) if norm.bias is None else norm.bias.detach()
    norm.weight = norm.bias = None
    return scale, shift


def _behind_affine(linear: Any, scale: Tensor, shift: Tensor) -> nn.Linear:
    """x ↦ linear(scale · x + shift) as one map."""
    return plain_linear(linear.weight * scale, effective_bias(linear) + (linear.weight * shift).sum(dim=1))


def _centred(tensor: Tensor, axis: int = -1) -> nn.Parameter:
    return nn.Parameter(tensor.detach() - tensor.detach().mean(dim=axis, keepdim=True))


def _fold_layer_scale(block: AnyBlock) -> None:
    attn, mlp = block.attn, block.mlp
    _set_output(attn, attn.W_O, attn.b_O)
    mlp.fc2, mlp.gamma = plain_linear(mlp.W_out.T, mlp.b_out), None


def _set_output(attn: Attention, W_O: Float[Tensor, "heads d_head d"], b_O: Float[Tensor, "d"]) -> None:
    attn.proj, attn.gamma = plain_linear(rearrange(W_O, "h e d -> d (h e)"), b_O), None


def _set_qkv(attn: Attention, matrices: list[Tensor], biases: list[Tensor]) -> None:
    weight = torch.cat([rearrange(matrix, "h d e -> (h e) d") for matrix in matrices])
    attn.project = FusedProjection(
        plain_linear(weight, torch.cat([bias.flatten() for bias in biases])), attn.project.heads
    )  # fmt: skip


def _fold_value_biases(attn: Attention) -> None:
    b_Q, b_K, b_V = attn.project.biases()
    b_O = attn.b_O + einsum(b_V, attn.W_O, "h e, h e d -> d")
    _set_output(attn, attn.W_O, b_O)
    _set_qkv(attn, attn.project.matrices(), [b_Q, b_K, torch.zeros_like(b_V)])


def _refactor(attn: Attention) -> None:
    """The biases stand as one more row under the matrices, so that the products with them stay exact."""
    q, k, v = (
        torch.cat([weight, bias[:, None]], dim=1)
        for weight, bias in zip(attn.project.matrices(), attn.project.biases(), strict=True)
    )
    even = FactoredMatrix(q, k.mT).make_even()
    U, S, V = FactoredMatrix(v, attn.W_O).svd()
    maps = [even.A, even.B.mT, U * S[:, None]]
    _set_qkv(attn, [matrix[:, :-1] for matrix in maps], [matrix[:, -1] for matrix in maps])
    _set_output(attn, V.mT, attn.b_O)
