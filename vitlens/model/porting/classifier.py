"""Ports classifiers: a linear layer, the layers of a Sequential, or a module of the user's own, all as they are."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vitlens.errors import InputError, reason
from vitlens.model.class_space.classifier import OwnClassifier
from vitlens.model.class_space.layered import LayeredClassifier
from vitlens.model.porting.parts import QUANTISERS, is_adapted, refuse_other_class


def port_classifier(head: Any, width: int, where: str = "head") -> OwnClassifier | None:
    """The classifier, None where there is none. What is only used in training is left out.

    Args:
        width: how many numbers the model gives it.

    Raises:
        InputError: it does not read them, or is no function of one picture's numbers.
    """
    if not isinstance(head, nn.Module):
        refuse_other_class(head, (nn.Linear,), where)
    layers = _layers(head)
    if not layers:
        return None
    for name, part in head.named_modules():
        if is_adapted(part) or type(part).__module__.startswith(QUANTISERS):
            refuse_other_class(part, (nn.Linear,), f"{where}.{name}" if name else where)
    if len(layers) == 1 and _is_linear(layers[0]):
        if layers[0].in_features != width:
            raise InputError(f"{where} reads {layers[0].in_features} numbers, and the model gives it {width}")
        return layers[0]
    return _layered(layers, width, where)


def _layers(head: Any) -> list[Any]:
    """The layers in their order, those of a Sequential within another among them."""
    if type(head) is nn.Sequential:
        return [layer for part in head for layer in _layers(part)]
    return [] if isinstance(head, (nn.Identity, nn.Dropout)) else [head]


def _is_linear(layer: nn.Module) -> bool:
    """Whether a layer shows its matrix as `weight` at any time, as one whose weight is parametrised does.

    The older `torch.nn.utils.weight_norm` makes the matrix anew in each forward, by a hook.
    """
    kind = parametrize.type_before_parametrizations(layer)
    return kind is nn.Linear and not layer._forward_pre_hooks


@torch.inference_mode(False)
def _layered(layers: list[nn.Module], width: int, where: str) -> LayeredClassifier:
    classifier = LayeredClassifier(layers, width, 0).eval()
    called = f"{where} ({', '.join(type(layer).__name__ for layer in layers)})"
    some = classifier.examples(4).requires_grad_()
    with torch.enable_grad():
        try:
            logits, *alone = (reduce(lambda x, layer: layer(x), layers, rows) for rows in (some, some[:1], some[1:]))
        except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError, IndexError) as error:
            raise InputError(
                f"{called} cannot read vectors [pictures, {width}], which the model gives it: {reason(error)}"
            ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 4 or not logits.is_floating_point():
        raise InputError(f"{called} returns no table of logits [pictures, classes]")
    if not logits.requires_grad:
        raise InputError(f"{called} has no gradient, so no logit could be attributed through it")
    if not logits.is_meta:
        difference = (logits - torch.cat(alone)).abs().max().item()
        if not difference <= torch.finfo(logits.dtype).eps ** 0.5 * max(1.0, logits.abs().max().item()):
            raise InputError(
                f"{called} returns other logits for a picture with other pictures beside it, or by chance: vitlens ports "
                "classifiers that read each picture alone"
            )
    classifier.n_outputs = logits.shape[1]
    return classifier
