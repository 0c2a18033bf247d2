"""Compares modules of classes that are of no known library with their ports, since their forward may be any."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError, reason

#: Their classes are compared with ports by experiments/measure_parity.py.
LIBRARIES = {"transformers", "torchvision", "open_clip", "vit_pytorch", "peft"}


@torch.no_grad()
def check_own_class(module: nn.Module, model: Any) -> None:
    """Runs one picture of noise through a module of an own class, or with a forward of its own, and through its port.

    Args:
        module: what was opened.
        model: its port, a HookedViT.

    Raises:
        InputError: the module answers otherwise than its port.
    """
    own = type(module).__module__.split(".")[0] not in LIBRARIES
    if not own and not any("forward" in vars(part) for part in module.modules()):
        return
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, model.cfg.n_channels, *model.cfg.image_size, generator=generator).to(parameter)
    try:
        theirs = _tensor(copy.deepcopy(module).eval()(image))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        raise InputError(f"{_advice(module, model)}, and it cannot be compared with it ({reason(error)})") from None
    ours = model(image.to(model.device, model.dtype)).to(parameter)
    same = theirs is not None and theirs.shape == ours.shape
    limit = 4 * torch.finfo(min(parameter.dtype, model.dtype, key=lambda kind: torch.finfo(kind).bits)).eps ** 0.5
    if theirs is None or not same or not (theirs - ours).abs().max() <= limit * theirs.abs().max():
        raise InputError(f"{_advice(module, model)}, and answers otherwise than that model")


def _advice(module: nn.Module, model: Any) -> str:
    return (
        f"{type(module).__name__} is a class of your own with the weights of a {model.cfg.model_name}: pass the model "
        "inside it, or its state_dict() to read the weights alone; its forward is its own"
    )


def _tensor(answer: Any) -> Tensor | None:
    """The logits, or the first of several tensors, that a module answers."""
    if isinstance(answer, Tensor):
        return answer
    logits = getattr(answer, "logits", None)
    if logits is None and isinstance(answer, (tuple, list)) and answer:
        logits = answer[0]
    return logits if isinstance(logits, Tensor) else None
