"""Checks, before any work is done, that a model has the classes that an analysis needs."""

from typing import TYPE_CHECKING

from vitlens.errors import InputError

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def require_classifier(model: "HookedViT") -> None:
    """Raises InputError if there is no classifier, before any work is done."""
    model.classifiers  # noqa: B018


def require_choice(model: "HookedViT", quantity: str, instead: str = 'ask for the logit: metric="logit"') -> None:
    """Raises InputError unless the model chooses among at least two classes, as `quantity` ("a rank") needs.

    The softmax over one output is 1 and its rank is 0 whatever the model computes, and so are all ranks among classes
    that are all the same. `instead` is what a single output does allow.
    """
    model.require_classifier()
    if model.cfg.n_classes < 2:
        raise InputError(
            f"{model.cfg.model_name} has a single output, for which {quantity} means nothing (the softmax of one "
            f"number is 1 whatever it is): {instead}"
        )
    weight, bias = model.W_U, model.b_U
    if bool((weight == weight[:, :1]).all()) and bool((bias == bias[:1]).all()):
        raise InputError(
            f"all {model.cfg.n_classes} classes of {model.cfg.model_name} have the same embedding (a classifier that was "
            f"never trained?), so {quantity} means nothing: load trained weights, or model.set_class_embeddings"
        )
