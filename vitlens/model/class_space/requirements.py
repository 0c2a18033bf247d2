"""Checks, before any work is done, that a model has the classes that an analysis needs."""

from typing import TYPE_CHECKING

from vitlens.errors import InputError
from vitlens.model.class_space.classifier import ClassEmbeddings, all_classes_alike, kind_of
from vitlens.model.class_space.layered import LINEAR

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
    if all(all_classes_alike(classifier) for classifier in model.classifiers):
        raise InputError(
            f"all {model.cfg.n_classes} classes of {model.cfg.model_name} have the same embedding (a classifier that was "
            f"never trained?), so {quantity} means nothing: load trained weights, or model.set_class_embeddings"
        )


def no_single_direction(model: "HookedViT") -> str | None:
    """Why no direction of the stream gives a token's share in a class, if none does."""
    if model.is_distilled:
        return "two classifiers read two tokens"
    if not model.pool.is_mean:
        return f"its tokens are read by {model.cfg.pool} pooling"
    if any(kind_of(classifier) != LINEAR for classifier in model.classifiers):
        return "its classifier has layers or norms of its own"
    if isinstance(model.unembed, ClassEmbeddings) and model.unembed.normalise:
        return "its features are divided by their length"
    return None


def require_single_direction(model: "HookedViT") -> None:
    """Raises InputError where no direction of the stream gives a token's share in a class."""
    reason = no_single_direction(model)
    if reason is not None:
        raise InputError(
            f"no single direction gives a token's share in a class of {model.cfg.model_name} ({reason}): use "
            "vitlens.direct_logit_attribution"
        )
