"""Ports attentions: one function for each of timm's classes."""

from collections.abc import Callable
from typing import Any

from timm.layers import RelPosBias, RelPosMlp
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import nn

from vitlens.model.parts.attention import Attention, DifferentialAttention, Lambdas, Rotation
from vitlens.model.parts.linear import LinearMap
from vitlens.model.parts.positions import RelPosModule, RelPosTable
from vitlens.model.parts.projections import FusedProjection, Projection, SplitProjection
from vitlens.model.porting.parts import Given, port_linear, port_norm, refuse_other_class, refuse_unknown, require_norm
from vitlens.model.porting.timm_classes import AttentionRope, DiffAttention, TimmAttention

NORMED = {"q_norm", "k_norm", "norm"}


def port_attention(attention: Any, gamma: nn.Parameter | None, where: str, given: Given) -> Attention:
    """timm's attention with the LayerScale that follows it."""
    refuse_other_class(attention, tuple(PORTS), where)
    return PORTS[type(attention)](attention, gamma, where, given)


def _common(attention: Any, gamma: nn.Parameter | None, where: str) -> dict[str, Any]:
    """What most attentions have, by the names of `Attention`."""
    norms: dict[str, Any] = {
        ours: port_norm(getattr(attention, theirs), f"{where}.{theirs}", token_axis)
        for ours, theirs, token_axis in (("q_norm", "q_norm", -3), ("k_norm", "k_norm", -3), ("ln_z", "norm", -2))
        if hasattr(attention, theirs)
    }
    gate = getattr(attention, "gate", None)
    return norms | {
        "scale": attention.scale,
        "fused": attention.fused_attn,
        "gamma": gamma,
        "gate": None if gate is None else port_linear(gate, f"{where}.gate"),
    }


def _fused(attention: Any, where: str) -> FusedProjection:
    return FusedProjection(port_linear(attention.qkv, f"{where}.qkv"), (attention.num_heads,) * 3)


def _plain(attention: Any, gamma: nn.Parameter | None, where: str, given: Given) -> Attention:
    refuse_unknown(attention, {"qkv", "proj", "gate"} | NORMED, where)
    proj = port_linear(attention.proj, f"{where}.proj")
    return Attention(_fused(attention, where), proj, **_common(attention, gamma, where))


def _rotary(attention: Any, gamma: nn.Parameter | None, where: str, given: Given) -> Attention:
    """AttentionRope and EvaAttention: rotated q and k, packed or separate weights, biases kept apart."""
    known = {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "k_bias", "v_bias", "proj", "gate"}
    refuse_unknown(attention, known | NORMED, where)
    project: Projection
    if attention.qkv is None:
        maps = [port_linear(getattr(attention, f"{x}_proj"), f"{where}.{x}_proj") for x in "qkv"]
        q, k, v = maps
        project = SplitProjection(q, k, v, attention.num_heads, getattr(attention, "num_kv_groups", 1))
    else:
        project = _with_separate_biases(attention, where)
    proj = port_linear(attention.proj, f"{where}.proj")
    rotation = Rotation(attention.num_prefix_tokens, getattr(attention, "rotate_half", False)) if given.rotary else None
    return Attention(project, proj, rotation=rotation, **_common(attention, gamma, where))


def _with_separate_biases(attention: Any, where: str) -> FusedProjection:
    if getattr(attention, "q_bias", None) is None:
        return _fused(attention, where)
    biases = attention.q_bias, attention.k_bias, attention.v_bias
    return FusedProjection(port_linear(attention.qkv, f"{where}.qkv"), (attention.num_heads,) * 3, biases)


def _beit(attention: Any, gamma: nn.Parameter | None, where: str, given: Given) -> Attention:
    known = {"qkv", "q_bias", "k_bias", "v_bias", "relative_position_bias_table", "relative_position_index", "proj"}
    refuse_unknown(attention, known, where)
    return Attention(
        _with_separate_biases(attention, where),
        port_linear(attention.proj, f"{where}.proj"),
        rel_pos=None if attention.relative_position_bias_table is None else RelPosTable(attention),
        shares_rel_pos=given.rel_pos,
        **_common(attention, gamma, where),
    )


def _rel_pos(attention: Any, gamma: nn.Parameter | None, where: str, given: Given) -> Attention:
    refuse_unknown(attention, {"qkv", "q_norm", "k_norm", "rel_pos", "proj"}, where)
    return Attention(
        _fused(attention, where),
        port_linear(attention.proj, f"{where}.proj"),
        rel_pos=None if attention.rel_pos is None else port_rel_pos(attention.rel_pos, f"{where}.rel_pos"),
        shares_rel_pos=given.rel_pos,
        **_common(attention, gamma, where),
    )


def port_rel_pos(rel_pos: Any, where: str) -> RelPosModule:
    refuse_other_class(rel_pos, (RelPosBias, RelPosMlp), where)
    return RelPosModule(rel_pos)


def _differential(
    attention: Any, gamma: nn.Parameter | None, where: str, given: Given
) -> DifferentialAttention:  # fmt: skip
    known = {"qkv", "proj", "sub_norm", "lambda_a", "lambda_b"} | {f"lambda_{x}{i}" for x in "qk" for i in (1, 2)}
    refuse_unknown(attention, known | NORMED, where)
    qkv = port_linear(attention.qkv, f"{where}.qkv")
    options = _common(attention, gamma, where)
    return differential(attention, qkv, port_linear(attention.proj, f"{where}.proj"), options, where)


def differential(holder: Any, qkv: LinearMap, proj: LinearMap, options: dict[str, Any], where: str) -> Any:
    """Differential attention from a timm module that holds its norm and lambdas."""
    n_heads = holder.num_heads
    names = ("a", "b") if holder.lambda_a is not None else ("q1", "k1", "q2", "k2")
    return DifferentialAttention(
        FusedProjection(qkv, (2 * n_heads, 2 * n_heads, n_heads)),
        proj,
        sub_norm=require_norm(holder.sub_norm, f"{where}.sub_norm", token_axis=-3),
        lambdas=Lambdas([getattr(holder, f"lambda_{name}") for name in names], holder.lambda_init),
        **options,
    )


PORTS: dict[type, Callable[[Any, nn.Parameter | None, str, Given], Attention]] = {
    TimmAttention: _plain,
    AttentionRope: _rotary,
    EvaAttention: _rotary,
    BeitAttention: _beit,
    RelPosAttention: _rel_pos,
    DiffAttention: _differential,
}
