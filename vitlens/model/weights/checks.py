"""Checks weights from any source: plain dense tensors of finite floats."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError

Named = Iterable[tuple[str, Tensor]]
PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)


def check_weights(tensors: Named, source: str) -> None:
    """Raises InputError, by the tensor's name, unless all are weights that can be computed with.

    Args:
        tensors: weights by name; tensors that count or index go to `check_plain` alone.
        source: what holds them, as the beginning of a sentence: a file, "the timm module".
    """
    for name, tensor in tensors:
        check_plain(name, tensor, source)
        if not tensor.is_floating_point():
            raise InputError(
                f"{source}: {name} is {_short(tensor.dtype)}, and weights are floats: load the model as it was before "
                "it was quantised or rounded"
            )
        _check_finite(name, tensor, source)


def check_plain(name: str, tensor: Tensor, source: str) -> None:
    """Raises InputError unless the tensor is one of torch's own, dense, and holds values."""
    if type(tensor) not in PLAIN:
        raise InputError(f"{source}: {name} is a {type(tensor).__name__}: vitlens takes plain tensors alone")
    if tensor.is_meta:
        raise InputError(f'{source}: {name} is on the device "meta", so it holds no values: load real weights')
    if tensor.is_quantized:
        raise InputError(f"{source}: {name} is quantised: vitlens takes weights of floats alone")
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else "sparse"
        raise InputError(f"{source}: {name} is a {kind} tensor: make it dense (tensor.to_dense()) and save it again")


def _check_finite(name: str, tensor: Tensor, source: str) -> None:
    values = tensor.detach()
    # torch has no isfinite for floats of 8 bits.
    values = values.float() if values.element_size() == 1 else values
    finite = values.isfinite()
    if finite.all():
        return
    n_nan, n_off = int(values.isnan().sum()), int((~finite).sum())
    kinds = [f"{n:,} {kind}" for n, kind in ((n_nan, "NaN"), (n_off - n_nan, "infinite")) if n]
    raise InputError(
        f"{source}: {name} holds {' and '.join(kinds)} among its {values.numel():,} values, so whatever it computes means "
        "nothing: take weights from before they broke"
    )


def check_range(tensors: Named, dtype: torch.dtype) -> None:
    """Raises InputError with the tensor's name if finite weights would be infinite in `dtype`."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype != dtype and not _fits(tensor.detach(), dtype):
            raise InputError(
                f"{name} holds values of up to {float(tensor.detach().abs().max()):.3g}, and {_short(dtype)} ends at "
                f"{torch.finfo(dtype).max:.3g}: take bfloat16 or float32 instead"
            )


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    narrower = torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
    return not narrower or tensor.is_meta or bool(tensor.to(dtype).isfinite().all() or not tensor.isfinite().all())


def named_tensors(module: nn.Module) -> Named:
    """All parameters and buffers."""
    yield from module.named_parameters()
    yield from module.named_buffers()


class FiniteWeights(nn.Module):
    """A module that refuses a cast (`to`, `half`, …) in which finite weights would become infinite, and stays unchanged."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for dtype in {tensor.dtype for _, tensor in named_tensors(self) if tensor.is_floating_point()}:
            becomes = fn(torch.empty(0, dtype=dtype)).dtype
            if becomes.is_floating_point:
                check_range(named_tensors(self), becomes)
        return super()._apply(fn, recurse)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
