"""Computes gradients even if the call is made under no_grad or inference_mode, as evaluation loops do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Turns autograd on inside, also under no_grad or inference_mode; the state before is restored afterwards.

    Tensors that were made under inference_mode still cannot take part: pass them through `outside_inference` first.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def gradients_disabled() -> Iterator[None]:
    """Turns autograd off inside, so that results can take part in a graph later, also under inference_mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def outside_inference(x: Tensor) -> Tensor:
    """The same values in a tensor that autograd takes: a copy where it was made under inference_mode.

    To be called within `gradients_enabled` or `gradients_disabled`: a copy made under inference_mode is no better.
    """
    return x.clone() if x.is_inference() else x


def gradients_of(output: Tensor, wanted: Sequence[Tensor], weights: Tensor | None = None) -> tuple[Tensor, ...]:
    """∂ Σ weights · output / ∂ each of `wanted`; zeros if the output does not depend on it, e.g. after an ablation.

    Args:
        weights: in the shape of the output; by default ones.
    """
    if not output.requires_grad:
        return tuple(torch.zeros_like(x) for x in wanted)
    weights = torch.ones_like(output) if weights is None else weights
    return torch.autograd.grad(output, list(wanted), weights, allow_unused=True, materialize_grads=True)
