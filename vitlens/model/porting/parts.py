"""Ports the small parts of timm's modules, and refuses unknown ones."""

from dataclasses import dataclass
from typing import Any

from timm.layers import LayerNorm as TimmLayerNorm
from timm.layers import RmsNorm as TimmRmsNorm
from timm.layers import SimpleNorm as TimmSimpleNorm
from torch import nn

from vitlens.errors import InputError
from vitlens.model.parts.norm import LayerNorm, Norm, RMSNorm, RMSNormOverHeads, SimpleNorm
from vitlens.model.porting.over_heads import QueryNormOverHeads
from vitlens.model.porting.timm_classes import LAYER_SCALES

# timm's modules carry their configuration as plain attributes that no type checker knows: they are typed Any here.
NORMS: dict[type, type[Norm]] = {
    TimmLayerNorm: LayerNorm,
    nn.LayerNorm: LayerNorm,
    TimmRmsNorm: RMSNorm,
    TimmSimpleNorm: SimpleNorm,
    QueryNormOverHeads: RMSNormOverHeads,
}
# The names that peft, loralib and others give to adapters, and libraries that replace linear layers by quantised ones.
ADAPTERS = ("lora_", "base_layer", "modules_to_save", "hada_")
QUANTISERS = ("bitsandbytes", "torchao", "gptqmodel", "auto_gptq", "awq", "optimum", "quanto", "hqq")
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
    refuse_other_class(scale, LAYER_SCALES, where)
    return scale.gamma


def port_linear(linear: Any, where: str) -> nn.Linear:
    refuse_other_class(linear, (nn.Linear,), where)
    return linear


def refuse_other_class(module: Any, known: tuple[type, ...], where: str) -> None:
    if type(module) in known:
        return
    if is_adapted(module):
        raise InputError(
            f"{where} carries an adapter ({_full_name(module)} with {', '.join(dict(module.named_children()))}): merge "
            "it into the weights first (model.merge_and_unload() of peft) and port what that gives"
        )
    names = {kind.__name__: None for kind in known}
    kind = _full_name(module) if type(module).__name__ in names else type(module).__name__
    hint = ""
    if _full_name(module).startswith(QUANTISERS):
        hint = ": load the model as it was before it was quantised"
    elif hasattr(module, "parametrizations"):
        hint = ": make its weight plain first (torch.nn.utils.parametrize.remove_parametrizations)"
    raise InputError(f"{where} is a {kind}, which vitlens does not port (it ports {', '.join(names)}){hint}")


def is_adapted(module: Any) -> bool:
    """Whether the module, or a part of it, has an adapter such as LoRA."""
    if not isinstance(module, nn.Module):
        return False
    names = (name for name, _ in [*module.named_modules(), *module.named_parameters()])
    return any(part.startswith(ADAPTERS) for name in names for part in name.split("."))


def _full_name(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def refuse_unknown(module: nn.Module, known: set[str], where: str) -> None:
    """Raises InputError for parts with weights or computations that are not ported."""
    parts = {name for name, _ in module.named_children()}
    parts |= {name for name, _ in module.named_parameters(recurse=False)}
    parts |= {name for name, _ in module.named_buffers(recurse=False)}
    unknown = sorted(parts - known - TRAINING_ONLY)
    if unknown:
        raise InputError(
            f"{where} ({type(module).__name__}) has {', '.join(unknown)}, which vitlens does not know, "
            "so its port would not be exact"
        )
