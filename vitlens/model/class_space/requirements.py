"""Checks, before any work is done, that a model has the classes, probabilities or ranks that an analysis needs."""

from typing import TYPE_CHECKING

from vitlens.errors import InputError
from vitlens.model.class_space.classifier import ClassEmbeddings, all_classes_alike, kind_of
from vitlens.model.class_space.layered import LINEAR
from vitlens.model.class_space.outputs import WITH_PROBABILITIES
from vitlens.model.parts.pooling import ClassAndMeanPool

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

USE_LOGITS = 'ask for the logit: metric="logit"'
#: What outputs are that have neither probability nor rank.
NO_CLASSES = {"identity": "a number", "embedding": "a coordinate of an embedding"}


def require_classifier(model: "HookedViT") -> None:
    """Raises InputError if there is no classifier, before any work is done."""
    model.classifiers  # noqa: B018


def require_probability(model: "HookedViT", quantity: str = "a probability", instead: str = USE_LOGITS) -> None:
    """Raises InputError unless the model's outputs have probabilities, as `quantity` needs.

    `instead` is what the model does allow.
    """
    _require_classes(model, quantity, instead)
    if model.cfg.output == "softmax":
        require_differences(model, quantity)


def require_rank(model: "HookedViT", quantity: str, instead: str = USE_LOGITS) -> None:
    """Raises InputError unless the model ranks at least two classes, as `quantity` ("a rank") needs.

    The rank of a single output is 0 whatever the model computes, and so are all ranks among classes that are all the same.
    """
    _require_classes(model, quantity, instead)
    if model.cfg.n_classes < 2:
        raise InputError(
            f"{model.cfg.model_name} has a single output, for which {quantity} means nothing (it is first whatever it "
            f"is): {instead}"
        )
    require_differences(model, quantity)


def predicts(model: "HookedViT") -> bool:
    """Whether one of the outputs is the predicted one: the class with the largest logit, or the only output."""
    return model.cfg.n_classes == 1 or model.cfg.output in WITH_PROBABILITIES


def require_prediction(model: "HookedViT") -> None:
    """Raises InputError unless one of the outputs is the predicted one, as classes=None needs."""
    model.require_classifier()
    if not model.predicts:
        raise InputError(
            f"each output of {model.cfg.model_name} is {NO_CLASSES[model.cfg.output]} "
            f'(output="{model.cfg.output}"), so none is predicted: name outputs with classes=, or {_remedy(model)}'
        )


def _require_classes(model: "HookedViT", quantity: str, instead: str) -> None:
    model.require_classifier()
    output, n = model.cfg.output, model.cfg.n_classes
    if output not in WITH_PROBABILITIES:
        whose = "the single output" if n == 1 else f"each of the {n} outputs"
        raise InputError(
            f'{whose} of {model.cfg.model_name} is {NO_CLASSES[output]} (output="{output}"), for which {quantity} means '
            f"nothing: {instead}, or {_remedy(model)}"
        )


def _remedy(model: "HookedViT") -> str:
    if model.cfg.output == "embedding":
        return "give it classes with model.set_class_embeddings"
    if model.cfg.n_classes == 1 and model.text_tower is not None:
        return "pass several texts, of which one is predicted for each picture"
    they_are = "it is a class" if model.cfg.n_classes == 1 else "they are classes"
    return f'say that {they_are} with model.set_output("sigmoid")'


def require_differences(model: "HookedViT", quantity: str) -> None:
    """Raises InputError if all classes are the same, as those of a classifier that timm initialises to zeros."""
    if all(all_classes_alike(classifier) for classifier in model.classifiers):
        raise InputError(
            f"all {model.cfg.n_classes} classes of {model.cfg.model_name} have the same embedding (a classifier that was "
            f"never trained?), so {quantity} means nothing: load trained weights, or model.set_class_embeddings"
        )


def no_class_directions(model: "HookedViT") -> str | None:
    """Why classes are no directions of the stream (`W_U`), if they are none."""
    if any(kind_of(classifier) != LINEAR for classifier in model.classifiers):
        return "the classifier is no single matrix: its layers or norms stand between"
    width, d_model = model.pool.width(model.cfg.d_model), model.cfg.d_model
    if width != d_model and not isinstance(model.pool, ClassAndMeanPool):
        return f"the classifier reads {width} numbers and the stream has {d_model}"
    return None


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
