"""Autograd inside whatever surrounds a call: evaluation loops run under no_grad or inference_mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Autograd works inside, although no_grad or inference_mode stands around; what stood there comes back afterwards.

    Tensors that were made under inference_mode still cannot take part: pass them through `outside_inference` first.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def gradients_disabled() -> Iterator[None]:
    """No graph is kept, and what is computed inside can take part in one later, although inference_mode stands around."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def outside_inference(x: Tensor) -> Tensor:
    """The same values in a tensor that autograd takes: a copy where it was made under inference_mode.

    To be called within `gradients_enabled` or `gradients_disabled`: a copy made under inference_mode is no better.
    """
    return x.clone() if x.is_inference() else x
