"""Ports MLPs: one function for each of timm's classes."""

from collections.abc import Callable
from typing import Any

from timm.layers import GluMlp, SwiGLU
from timm.layers import Mlp as TimmMlp
from timm.models.vitamin import GeGluMlp
from torch import nn

from vitlens.model.parts.linear import LinearSlice
from vitlens.model.parts.mlp import MLP, GatedMLP
from vitlens.model.porting.parts import port_linear, port_norm, refuse_other_class, refuse_unknown


def port_mlp(mlp: Any, gamma: nn.Parameter | None, where: str) -> MLP:
    """timm's MLP with the LayerScale that follows it."""
    refuse_other_class(mlp, tuple(PORTS), where)
    return PORTS[type(mlp)](mlp, gamma, where)


def _plain(mlp: Any, gamma: nn.Parameter | None, where: str) -> MLP:
    refuse_unknown(mlp, {"fc1", "act", "norm", "fc2"}, where)
    fc1, fc2 = (port_linear(getattr(mlp, name), f"{where}.{name}") for name in ("fc1", "fc2"))
    return MLP(fc1, mlp.act, fc2, gamma, port_norm(mlp.norm, f"{where}.norm"))


def _packed(mlp: Any, gamma: nn.Parameter | None, where: str) -> GatedMLP:
    """GluMlp: gate and linear part are the halves of one map."""
    refuse_unknown(mlp, {"fc1", "act", "norm", "fc2"}, where)
    fc1, fc2 = (port_linear(getattr(mlp, name), f"{where}.{name}") for name in ("fc1", "fc2"))
    half = fc1.out_features // 2
    halves = [LinearSlice(fc1, rows=slice(0, half)), LinearSlice(fc1, rows=slice(half, None))]
    linear, gate = halves if mlp.gate_last else halves[::-1]
    return GatedMLP(gate, linear, mlp.act, fc2, gamma, port_norm(mlp.norm, f"{where}.norm"))


def _unpacked(mlp: Any, gamma: nn.Parameter | None, where: str) -> GatedMLP:
    refuse_unknown(mlp, {"fc1_g", "fc1_x", "act", "norm", "fc2"}, where)
    gate, linear, fc2 = (port_linear(getattr(mlp, name), f"{where}.{name}") for name in ("fc1_g", "fc1_x", "fc2"))
    return GatedMLP(gate, linear, mlp.act, fc2, gamma, port_norm(mlp.norm, f"{where}.norm"))


def _vitamin(mlp: Any, gamma: nn.Parameter | None, where: str) -> GatedMLP:
    """GeGluMlp: unpacked, with a norm of its own in front."""
    refuse_unknown(mlp, {"norm", "w0", "act", "w1", "w2"}, where)
    gate, linear, out = (port_linear(getattr(mlp, name), f"{where}.{name}") for name in ("w0", "w1", "w2"))
    return GatedMLP(gate, linear, mlp.act, out, gamma, ln_in=port_norm(mlp.norm, f"{where}.norm"))


PORTS: dict[type, Callable[[Any, nn.Parameter | None, str], MLP]] = {
    TimmMlp: _plain,
    GluMlp: _packed,
    SwiGLU: _unpacked,
    GeGluMlp: _vitamin,
}
