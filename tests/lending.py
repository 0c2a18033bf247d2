"""Models that tests borrow: built once in a process, and built again only after a test has changed one."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

#: With the state in which each was given back.
_BUILT: dict[Hashable, tuple[nn.Module, list[Any]]] = {}


@contextmanager
def lent(key: Hashable, build: Callable[[], nn.Module]) -> Iterator[Any]:
    """The model that `build` makes. A test may do with it what it likes: a changed model is not lent again."""
    if key in _BUILT:
        module, before = _BUILT.pop(key)
    else:
        module = build()
        before = _state(module)
    yield module
    after = _state(module)
    if after == before:
        _BUILT[key] = module, after


def _state(module: nn.Module) -> list[Any]:
    """What a test may change: parts, their attributes and hooks, and weights by their sums (edits of .data included)."""
    state: list[Any] = [vars(module).get("class_names"), repr(vars(module).get("cfg"))]
    for name, part in module.named_modules():
        # A port tells each of timm's modules its `name`.
        attributes = {key: value for key, value in vars(part).items() if not key.startswith("_") and key != "name"}
        plain = {key: value for key, value in attributes.items() if isinstance(value, bool | int | float | str | None)}
        hooks = [len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks)]
        held = [len(getattr(part, kind, ())) for kind in ("fwd_hooks", "bwd_hooks")]
        state.append((name, id(part), sorted(attributes), sorted(plain.items(), key=str), hooks, held))
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        kind = (str(parameter.dtype), str(parameter.device), parameter.requires_grad, parameter.grad is None)
        state.append((name, id(parameter), kind, parameter._version, parameter.detach().double().sum().item()))
    return state
