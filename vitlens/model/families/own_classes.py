"""Compares modules with their ports where the forward may be any, or layers without weights may change the answer."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.errors import InputError, reason

#: Their classes are compared with ports by experiments/measure_parity.py.
LIBRARIES = {"transformers", "torchvision", "open_clip", "vit_pytorch", "peft"}
#: Their classes answer with logits, which users follow with layers that have no weights: a softmax.
ANSWER_LOGITS = {"torchvision", "vit_pytorch"}


@torch.no_grad()
def check_own_class(module: nn.Module, model: Any) -> None:
    """Runs one picture of noise through a module and through its port, where they may differ.

    That is a class of the user's own, a forward or hooks of its own, and a class whose answer is known to be logits.

    Args:
        module: what was opened.
        model: its port, a HookedViT.

    Raises:
        InputError: the module answers otherwise than its port.
    """
    library = type(module).__module__.split(".")[0]
    own = library not in LIBRARIES or any("forward" in vars(part) for part in module.modules())
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    if not own and not hooked and library not in ANSWER_LOGITS:
        return
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, model.cfg.n_channels, *model.cfg.image_size, generator=generator).to(parameter)
    try:
        theirs = _tensor(copy.deepcopy(module).eval()(image))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        if not own:
            return
        raise InputError(f"{_advice(module, model)}, and it cannot be compared with it ({reason(error)})") from None
    ours = model(image.to(model.device, model.dtype)).to(parameter)
    same = theirs is not None and theirs.shape == ours.shape
    limit = 4 * torch.finfo(min(parameter.dtype, model.dtype, key=lambda kind: torch.finfo(kind).bits)).eps ** 0.5
    if not same and not own:
        return
    if theirs is None or not same or not (theirs - ours).abs().max() <= limit * theirs.abs().max():
        if not own:
            raise InputError(
                f"this {type(module).__name__} answers otherwise than a {model.cfg.model_name} with its weights: take "
                "away its hooks, and layers without weights that follow its classifier (a softmax)"
            )
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
