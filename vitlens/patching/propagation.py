"""The rules of relevance propagation as linear maps, so that a backward pass carries coefficients in place of gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint, LensHandle

from vitlens.model.class_space.frozen_norms import FrozenNorms
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import OwnedHookPoint, Reader
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.mlp import MLP, GatedMLP
from vitlens.model.parts.pooling import AttentionPool

#: Stands in for an input of exactly 0, where f(x) / x is its limit.
NEXT_TO_ZERO = 1e-12


@contextmanager
def propagation_rules(model: HookedViT) -> Iterator[None]:
    """Inside, a run keeps its values, and a backward pass sees the linear map that each layer is for relevance propagation.

    - Norms: what divides is a constant (LN rule, Ali et al. 2022).
    - Activations: f(x) = c x with the constant c = f(x) / x (identity rule).
    - A gate and what it multiplies take half of the product's relevance each (half rule). A sigmoid gate, which is not 0
      at 0 and so has no such c, is a constant: what it multiplies takes all (Arras et al. 2019).
    - Attention: queries and keys are constants of what lies before them, so relevance passes through values alone (AH rule,
      Ali et al. 2022). They have a derivative of their own, through the softmax of their own pattern.
    - Linear layers, sums, pooling: as they are (0 rule).

    Without biases, Σ coefficient · activation is then the same in every residual stream: the metric, if it is a logit.

    Source: Rezaei Jafari et al. 2025 (RelP), with the rules that its released code lists; that of attention it uses only if
        asked to.
    """
    added: list[tuple[OwnedHookPoint, LensHandle]] = []
    try:
        for part in model.modules():
            for point, hook, first in _hooks_of(part):
                owned = cast(OwnedHookPoint, point)
                added.append((owned, owned.add_hook(hook, level=1, prepend=first)))
        with FrozenNorms():
            yield
    finally:
        for point, handle in added:
            point.remove(handle)


def _hooks_of(part: nn.Module) -> list[tuple[HookPoint, Any, bool]]:
    """Hook points of an MLP or of attention, what is called there, and whether before the user's own hooks."""
    if isinstance(part, MLP):
        return _of_mlp(part)
    if isinstance(part, Attention):
        gate = [] if part.gate is None else [(part.hook_gate, _as_constant, False)]
        return [(part.hook_q, _as_constant, False), (part.hook_k, _as_constant, False), *gate]
    if isinstance(part, AttentionPool):
        return [(part.hook_k, _as_constant, False)]
    return []


def _as_constant(x: Tensor, hook: HookPoint) -> Tensor:
    """A constant for what lies before, with a derivative of its own."""
    return x.detach().requires_grad_()


def _of_mlp(mlp: MLP) -> list[tuple[HookPoint, Any, bool]]:
    # What the user's hooks make of the inputs counts, so these are read behind them; they see what the rule returns.
    seen: dict[str, Tensor] = {}
    inputs = {"pre": mlp.hook_pre} | ({"linear": mlp.hook_pre_linear} if isinstance(mlp, GatedMLP) else {})
    keeping: list[tuple[HookPoint, Any, bool]] = [
        (point, Reader(partial(_keep, seen, name)), False) for name, point in inputs.items()
    ]
    zero_at_zero = _is_zero_at_zero(mlp.act)

    def activated(value: Tensor, hook: HookPoint) -> Tensor:
        x, linear = seen.pop("pre"), seen.pop("linear", None)
        if linear is None:
            return _through_activation(mlp.act, x) if zero_at_zero else value
        if not zero_at_zero:
            return mlp.act(x).detach() * linear
        product = _through_activation(mlp.act, x) * linear
        return (product + product.detach()) / 2

    return [*keeping, (mlp.hook_post if mlp.ln is None else mlp.hook_mid, activated, True)]


def _keep(seen: dict[str, Tensor], name: str, x: Tensor, hook: HookPoint) -> None:
    seen[name] = x


def _through_activation(act: nn.Module, x: Tensor) -> Tensor:
    """f(x), with the derivative f(x) / x."""
    at = x.detach()
    beside = torch.where(at == 0, NEXT_TO_ZERO, at)
    return act(at) + act(beside) / beside * (x - at)


def _is_zero_at_zero(act: nn.Module) -> bool:
    """Whether f(x) / x has a limit at 0."""
    parameter = next(act.parameters(), torch.zeros(()))
    return bool(act(parameter.new_zeros(1, 1, 1)).abs().max() < NEXT_TO_ZERO)
