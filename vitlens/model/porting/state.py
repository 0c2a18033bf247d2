"""Refuses modules that are hooked, quantised or in training mode when they are ported."""

import warnings
from typing import Any

import torch
from timm.layers import DropPath, PatchDropout
from torch import nn
from torch.nn.utils.weight_norm import WeightNorm

from vitlens.errors import InputError
from vitlens.model.porting.timm_classes import PatchDropoutWithIndices
from vitlens.model.weights.checks import check_plain, check_range, check_weights, named_tensors

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_state(module: Any) -> None:
    """Raises InputError for a module whose forward is changed by hooks, quantisation or training mode."""
    for name, part in module.named_modules():
        where = name or "the model"
        hooks = [hook for kind in HOOKS for hook in getattr(part, kind).values()]
        # The older weight_norm of torch is a hook; a classifier is called as it is, with it.
        if any(not (isinstance(hook, WeightNorm) and name.startswith("head")) for hook in hooks):
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
    _check_tensors(module)
    _check_training(module)


def move(module: nn.Module, device: torch.device | None, dtype: torch.dtype | None) -> nn.Module:
    """The module on that device, in that dtype.

    Raises:
        InputError: weights that cannot be computed with, or that the dtype cannot hold.
    """
    _check_tensors(module)
    if dtype is not None:
        check_range(named_tensors(module), dtype)
    return module.to(device=device, dtype=dtype)


def _check_tensors(module: nn.Module) -> None:
    source = "the timm module"
    if all(parameter.is_meta for parameter in module.parameters()):
        # A model without any values is allowed: its sizes and its memory are known without them.
        return
    for name, tensor in named_tensors(module):
        check_plain(name, tensor, source)
    buffers = [(name, tensor) for name, tensor in module.named_buffers() if tensor.is_floating_point()]
    check_weights([*module.named_parameters(), *buffers], source)
    devices = dict.fromkeys(str(parameter.device) for parameter in module.parameters())
    if len(devices) > 1:
        raise InputError(f"{source} is spread over {' and '.join(devices)}: put it on one with module.to(device)")


def check_one_dtype(module: nn.Module) -> None:
    """Raises InputError where linear maps and convolutions are of several dtypes."""
    maps = [
        (name, part.weight.dtype)
        for name, part in module.named_modules()
        # A weight that a hook makes in each forward has the dtype of the last one.
        if isinstance(part, (nn.Linear, nn.Conv2d)) and not part._forward_pre_hooks
    ]
    for name, dtype in maps:
        if dtype != maps[0][1]:
            raise InputError(
                f"the timm module: {name} is {str(dtype).removeprefix('torch.')} and {maps[0][0]} "
                f"{str(maps[0][1]).removeprefix('torch.')}: give all one dtype with module.to(dtype)"
            )


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
