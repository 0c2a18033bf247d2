"""Reads the device and the dtype that a user gives for a model."""

from typing import Any

import torch

from vitlens.errors import InputError, reason

#: The precisions that models compute in.
PRECISIONS = {str(dtype).removeprefix("torch."): dtype
              for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}  # fmt: skip


def read_dtype(dtype: Any) -> torch.dtype | None:
    """A precision given as torch's dtype or by its name ("float16", "torch.float16", "half"); None stays None.

    Raises:
        InputError: no precision that models compute in.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if (found is None and dtype is None) or (isinstance(found, torch.dtype) and found in PRECISIONS.values()):
        return found
    raise InputError(f"dtype is one of {', '.join(PRECISIONS)}, as torch's dtype or by its name, not {dtype!r}")


def read_device(device: Any) -> torch.device | None:
    """A device given as torch's or by its name, on which tensors can be made; None stays None.

    Raises:
        InputError: there is no such device here.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(f"device {str(device)!r} cannot be used: {reason(error)}") from None
    if found.type == "meta":
        raise InputError("device 'meta' holds no values, so nothing can be computed there: choose cpu or cuda")
    return found
