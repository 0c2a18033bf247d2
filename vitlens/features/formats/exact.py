"""Tensors and settings of a file, checked one by one: what is missing, unknown or of another shape is refused by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.weights.checks import check_range, check_weights

#: The axes of each tensor, by names; axes of one name have one length.
Axes = Mapping[str, tuple[str, ...]]


def exact_weights(
    state: Mapping[str, Tensor], axes: Axes, source: str, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of exactly these names and axes, all in `dtype`, or else in the widest precision that any of them has.

    Raises:
        InputError: a tensor is missing, unknown, of another shape, or cannot be computed with.
    """
    missing, unknown = [name for name in axes if name not in state], [name for name in state if name not in axes]
    if missing or unknown:
        said = [f"{', '.join(missing)} missing"] if missing else []
        said += [f"{', '.join(unknown[:4])} unknown"] if unknown else []
        raise InputError(f"{source} does not hold the weights that its kind of dictionary has: {'; '.join(said)}")
    check_weights(state.items(), source)
    lengths: dict[str, int] = {}
    for name, names in axes.items():
        shape = tuple(state[name].shape)
        if len(shape) != len(names) or any(
            lengths.setdefault(axis, length) != length for axis, length in zip(names, shape, strict=True)
        ):
            known = ", ".join(f"{axis} = {lengths[axis]}" for axis in names if axis in lengths)
            raise InputError(f"{source}: {name} is [{', '.join(names)}] with {known or 'no axis'}, not {list(shape)}")
    if 0 in lengths.values():
        raise InputError(f"{source} holds weights without any value")
    if dtype is None:
        dtype = widest(state.values())
    check_range(state.items(), dtype)
    return {name: tensor.detach().to(dtype) for name, tensor in state.items()}


def widest(tensors: Any) -> torch.dtype:
    """The widest precision of these tensors."""
    found = [tensor.dtype for tensor in tensors]
    dtype: torch.dtype = found[0]
    for other in found[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def check_said(name: str, said: object, of_weights: int, source: str) -> None:
    """Raises InputError if the settings say another number than the weights do; None says nothing."""
    if said is not None and said != of_weights:
        raise InputError(f"{source}: the settings say {name} {said!r}, and the weights say {of_weights}")


def one_of(settings: Mapping[str, Any], name: str, values: tuple[Any, ...], source: str) -> Any:
    """A setting that decides what is computed; it must be there, and one that vitlens computes.

    Raises:
        InputError: it is missing or something else.
    """
    if name not in settings:
        raise InputError(f"{source} does not say {name}, so it is not known what the dictionary computes")
    found = settings[name]
    if not any(found is value or (type(found) is type(value) and found == value) for value in values):
        allowed = ", ".join(repr(value) for value in values)
        raise InputError(f"{source}: {name} is {found!r}, and vitlens computes {allowed}")
    return found


def whole_number(settings: Mapping[str, Any], name: str, source: str) -> int:
    """A setting that is a whole number of at least 1.

    Raises:
        InputError: it is missing or something else.
    """
    found = settings.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError(f"{source}: {name} is a whole number of at least 1, not {found!r}")
    return found


def just_below(values: Tensor) -> Tensor:
    """The largest numbers that are smaller: x > just_below(θ) where x ≥ θ."""
    return torch.nextafter(values, torch.full_like(values, float("-inf")))
