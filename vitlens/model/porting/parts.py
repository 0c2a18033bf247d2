"""The small parts of timm's modules, and how the unknown is refused."""

from dataclasses import dataclass
from typing import Any

from timm.layers import LayerNorm as TimmLayerNorm
from timm.layers import LayerScale
from timm.layers import RmsNorm as TimmRmsNorm
from timm.layers import SimpleNorm as TimmSimpleNorm
from torch import nn

from vitlens.errors import InputError
from vitlens.model.norm import LayerNorm, Norm, RMSNorm, SimpleNorm

# timm's modules carry their configuration as plain attributes that no type checker knows: they are typed Any here.
NORMS: dict[type, type[Norm]] = {
    TimmLayerNorm: LayerNorm,
    nn.LayerNorm: LayerNorm,
    TimmRmsNorm: RMSNorm,
    TimmSimpleNorm: SimpleNorm,
}
# Parts of timm's modules that are the identity at evaluation time.
TRAINING_ONLY = {
    "drop_path", "drop_path1", "drop_path2", "attn_drop", "proj_drop", "drop", "drop1", "drop2", "mlp_drop",
    "pos_drop", "patch_drop", "head_drop",
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What the model gives to each of its blocks: the angles of rotary positions, a bias of relative positions."""

    rotary: bool = False
    rel_pos: bool = False


def port_norm(norm: Any, where: str, token_axis: int = -2) -> Norm | None:
    if isinstance(norm, nn.Identity):
        return None
    refuse_other_class(norm, tuple(NORMS), where)
    return NORMS[type(norm)].adopt(norm, token_axis)


def require_norm(norm: Any, where: str, token_axis: int = -2) -> Norm:
    ported = port_norm(norm, where, token_axis)
    if ported is None:
        raise InputError(f"{where} is missing: vitlens ports blocks whose attention and MLP have a norm each")
    return ported


def port_layer_scale(scale: Any, where: str) -> nn.Parameter | None:
    if isinstance(scale, nn.Identity):
        return None
    refuse_other_class(scale, (LayerScale,), where)
    return scale.gamma


def port_linear(linear: Any, where: str) -> nn.Linear:
    refuse_other_class(linear, (nn.Linear,), where)
    return linear


def port_classifier(head: Any, where: str = "head") -> nn.Linear | None:
    return None if isinstance(head, nn.Identity) else port_linear(head, where)


def refuse_other_class(module: nn.Module, known: tuple[type, ...], where: str) -> None:
    if type(module) not in known:
        names = ", ".join(dict.fromkeys(kind.__name__ for kind in known))
        raise InputError(f"{where} is a {type(module).__name__}, which vitlens does not port (it ports {names})")


def refuse_unknown(module: nn.Module, known: set[str], where: str) -> None:
    """Nothing that holds weights or computes may be left out without a word."""
    parts = {name for name, _ in module.named_children()}
    parts |= {name for name, _ in module.named_parameters(recurse=False)}
    parts |= {name for name, _ in module.named_buffers(recurse=False)}
    unknown = sorted(parts - known - TRAINING_ONLY)
    if unknown:
        raise InputError(
            f"{where} ({type(module).__name__}) has {', '.join(unknown)}, which vitlens does not know, "
            "so its port would not be exact"
        )
