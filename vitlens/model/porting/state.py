"""What a module must not be in the middle of when it is ported: hooked, quantised, training."""

import warnings
from typing import Any

import torch
from timm.layers import DropPath, PatchDropout, PatchDropoutWithIndices
from torch import nn

from vitlens.errors import InputError

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_state(module: Any) -> None:
    """Raises InputError for a module whose forward is more, or less, than its code and parameters say."""
    for name, part in module.named_modules():
        where = name or "the model"
        if any(getattr(part, hooks) for hooks in HOOKS):
            raise InputError(
                f"{where} ({type(part).__name__}) has a hook of torch's inside, which vitlens would leave out: "
                "remove it (handle.remove()) and hook the HookedViT instead"
            )
        replaced = [method for method in vars(part) if method.startswith("forward")]
        if replaced:
            raise InputError(
                f"{where} ({type(part).__name__}) has a {replaced[0]} of its own in place of its class's, which vitlens "
                "would leave out: port a module as timm made it"
            )
        if "quantized" in type(part).__module__ or "torchao" in type(part).__module__:
            raise InputError(f"{where} is a quantised {type(part).__name__}: vitlens ports models of floats alone")
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if type(tensor) not in (nn.Parameter, torch.Tensor, nn.Buffer):
            raise InputError(f"{name} is a {type(tensor).__name__}: vitlens ports models of plain tensors alone")
    _check_training(module)


def _drops(part: Any) -> bool:
    if isinstance(part, nn.Dropout):
        return part.p > 0
    if isinstance(part, DropPath):
        return part.drop_prob > 0
    return isinstance(part, (PatchDropout, PatchDropoutWithIndices)) and part.prob > 0


def _check_training(module: nn.Module) -> None:
    training = [(name, part) for name, part in module.named_modules() if part.training]
    for name, part in training:
        if _drops(part) or isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"the timm module is in training mode, where its {type(part).__name__} {name} makes it compute "
                "something else: call .eval() on it first"
            )
    if training:
        warnings.warn(
            "the timm module is in training mode; a HookedViT computes what it computes in evaluation mode, "
            "so call .eval() on it to compare the two",
            stacklevel=4,
        )
