"""Ports blocks: one function for each of timm's classes."""

from collections.abc import Callable
from typing import Any

import timm
from timm.layers import Mlp as TimmMlp
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import (
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock
from torch import nn

from vitlens.errors import InputError
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.block import AnyBlock, Block, ParallelBlock, PostNormBlock
from vitlens.model.parts.linear import LinearMap, LinearSlice, ParallelIn, ParallelOut
from vitlens.model.parts.mlp import MLP
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.projections import FusedProjection, SplitProjection
from vitlens.model.porting.attention import differential, port_attention
from vitlens.model.porting.mlp import port_mlp
from vitlens.model.porting.parts import (
    Given,
    port_layer_scale,
    port_linear,
    port_norm,
    refuse_other_class,
    refuse_unknown,
    require_norm,
)
from vitlens.model.porting.timm_classes import DiffParallelScalingBlock, TimmAttention
from vitlens.model.porting.timm_versions import VERIFIED


def port_block(block: Any, where: str, given: Given) -> AnyBlock:
    """Ports a timm block, with what its model passes to blocks."""
    if type(block) not in PORTS:
        known = ", ".join(dict.fromkeys(kind.__name__ for kind in PORTS))
        raise InputError(f"{where} is a {type(block).__name__}, a block that vitlens does not port (it ports {known})")
    return PORTS[type(block)](block, where, given)


def _pre_norm(block: Any, where: str, given: Given) -> Block:
    """timm's Block and RelPosBlock: LayerScale as modules."""
    refuse_unknown(block, {"norm1", "attn", "ls1", "norm2", "mlp", "ls2"}, where)
    gammas = port_layer_scale(block.ls1, f"{where}.ls1"), port_layer_scale(block.ls2, f"{where}.ls2")
    return _assemble(block, gammas, where, given)


def _pre_norm_gamma(block: Any, where: str, given: Given) -> Block:
    """EvaBlock and BEiT's Block: LayerScale as bare parameters."""
    refuse_unknown(block, {"norm1", "attn", "gamma_1", "norm2", "mlp", "gamma_2"}, where)
    return _assemble(block, (block.gamma_1, block.gamma_2), where, given)


def _assemble(
    block: Any, gammas: tuple[nn.Parameter | None, nn.Parameter | None], where: str, given: Given
) -> Block:  # fmt: skip
    return Block(
        require_norm(block.norm1, f"{where}.norm1"),
        port_attention(block.attn, gammas[0], f"{where}.attn", given),
        require_norm(block.norm2, f"{where}.norm2"),
        port_mlp(block.mlp, gammas[1], f"{where}.mlp"),
    )


def _post_norm(block: Any, where: str, given: Given) -> PostNormBlock:
    refuse_unknown(block, {"attn", "norm1", "mlp", "norm2"}, where)
    return PostNormBlock(
        port_attention(block.attn, None, f"{where}.attn", given),
        require_norm(block.norm1, f"{where}.norm1"),
        port_mlp(block.mlp, None, f"{where}.mlp"),
        require_norm(block.norm2, f"{where}.norm2"),
    )


def _parallel_scaling(block: Any, where: str, given: Given) -> ParallelBlock:
    """Attention and MLP share the map that reads the stream, and perhaps the one that writes to it."""
    known = {"in_norm", "in_proj", "mlp_bias", "q_norm", "k_norm", "mlp_act", "ls"}
    is_differential = isinstance(block, DiffParallelScalingBlock)
    if is_differential:
        lambdas = {"lambda_a", "lambda_b"} | {f"lambda_{x}{i}" for x in "qk" for i in (1, 2)}
        refuse_unknown(block, known | lambdas | {"sub_norm", "out_proj"}, where)
    else:
        if getattr(block, "qkv_bias", None) is not None:
            raise InputError(f"{where}: timm {timm.__version__} adds the biases otherwise, install timm {VERIFIED}")
        refuse_unknown(block, known | {"out_proj", "attn_out_proj", "mlp_out_proj"}, where)
    n_hidden, d_model = block.in_split[:2]
    in_proj = port_linear(block.in_proj, f"{where}.in_proj")
    qkv = LinearSlice(in_proj, rows=slice(n_hidden, None))
    attn_out: LinearMap
    mlp_out: LinearMap
    if getattr(block, "out_proj", None) is not None:
        out_proj = port_linear(block.out_proj, f"{where}.out_proj")
        # One bias for both: it is counted as the attention's.
        attn_out = LinearSlice(out_proj, columns=slice(0, d_model))
        mlp_out = LinearSlice(out_proj, columns=slice(d_model, None), with_bias=False)
    else:
        attn_out = port_linear(block.attn_out_proj, f"{where}.attn_out_proj")
        mlp_out = port_linear(block.mlp_out_proj, f"{where}.mlp_out_proj")
    gamma = port_layer_scale(block.ls, f"{where}.ls")
    options = {
        "scale": block.scale,
        "fused": block.fused_attn,
        "gamma": gamma,
        "q_norm": port_norm(block.q_norm, f"{where}.q_norm", token_axis=-3),
        "k_norm": port_norm(block.k_norm, f"{where}.k_norm", token_axis=-3),
    }
    if is_differential:
        attention = differential(block, qkv, attn_out, options, where)
    else:
        attention = Attention(FusedProjection(qkv, (block.num_heads,) * 3), attn_out, **options)
    fc1 = LinearSlice(in_proj, rows=slice(0, n_hidden), own_bias=block.mlp_bias)
    return ParallelBlock(
        require_norm(block.in_norm, f"{where}.in_norm"), attention, MLP(fc1, block.mlp_act, mlp_out, gamma)
    )


def _parallel_things(block: Any, where: str, given: Given) -> Block:
    """Several attentions side by side, then several MLPs: one attention with all their heads, one MLP with all neurons.

    The branches read the same normalised stream, each through its own affine part, which goes into W_Q … b_in.
    """
    refuse_unknown(block, {"attns", "ffns"}, where)
    for kind, part in (("attns", "attn"), ("ffns", "mlp")):
        for i, branch in enumerate(getattr(block, kind)):
            refuse_unknown(branch, {"norm", part, "ls"}, f"{where}.{kind}.{i}")
    attns = [
        port_attention(
            branch.attn, port_layer_scale(branch.ls, f"{where}.attns.{i}.ls"), f"{where}.attns.{i}.attn", given
        )
        for i, branch in enumerate(block.attns)
    ]
    mlps = [
        port_mlp(branch.mlp, port_layer_scale(branch.ls, f"{where}.ffns.{i}.ls"), f"{where}.ffns.{i}.mlp")
        for i, branch in enumerate(block.ffns)
    ]
    first, norms = attns[0], [require_norm(branch.norm, f"{where}.attns.norm") for branch in block.attns]
    for inner in (first.q_norm, first.k_norm, first.ln_z, first.gate, mlps[0].ln):
        if inner is not None:
            raise InputError(f"{where} has norms inside its parallel branches, which vitlens does not port")
    # Heads and neurons of all branches become those of one plain attention and one plain MLP.
    for branch in block.attns:
        refuse_other_class(branch.attn, (TimmAttention,), f"{where}.attns.attn")
        refuse_other_class(branch.attn.qkv, (nn.Linear,), f"{where}.attns.attn.qkv")
    for branch in block.ffns:
        refuse_other_class(branch.mlp, (TimmMlp,), f"{where}.ffns.mlp")
    width = block.attns[0].attn.qkv.out_features // 3
    q, k, v = (
        ParallelIn(norms, [LinearSlice(branch.attn.qkv, slice(i * width, (i + 1) * width)) for branch in block.attns])
        for i in range(3)
    )
    attention = Attention(
        SplitProjection(q, k, v, heads=sum(attn.n_heads for attn in attns)),
        ParallelOut([attn.proj for attn in attns], [attn.gamma for attn in attns]),
        scale=first.attn_scale,
        fused=first.fused,
    )
    mlp_norms = [require_norm(branch.norm, f"{where}.ffns.norm") for branch in block.ffns]
    mlp = MLP(
        ParallelIn(mlp_norms, [mlp.fc1 for mlp in mlps]),
        mlps[0].act,
        ParallelOut([mlp.fc2 for mlp in mlps], [mlp.gamma for mlp in mlps]),
        None,
    )
    return Block(_without_affine(norms[0]), attention, _without_affine(mlp_norms[0]), mlp)


def _without_affine(norm: Norm) -> Norm:
    return type(norm)(None, None, norm.eps)


PORTS: dict[type, Callable[[Any, str, Given], AnyBlock]] = {
    TimmBlock: _pre_norm,
    RelPosBlock: _pre_norm,
    EvaBlock: _pre_norm_gamma,
    BeitBlock: _pre_norm_gamma,
    ResPostBlock: _post_norm,
    ResPostRelPosBlock: _post_norm,
    EvaBlockPostNorm: _post_norm,
    ParallelScalingBlock: _parallel_scaling,
    DiffParallelScalingBlock: _parallel_scaling,
    ParallelThingsBlock: _parallel_things,
}
