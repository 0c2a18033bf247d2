"""Replaces a model's classifier by class embeddings: of a probe, of texts, or of anything else."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import short
from vitlens.data.class_names import check_class_names
from vitlens.errors import InputError
from vitlens.model.class_space.classifier import ClassEmbeddings, Classifier, OwnClassifier, n_outputs
from vitlens.model.class_space.layered import LayeredClassifier
from vitlens.model.class_space.outputs import check_output, default_output
from vitlens.model.parts.pooling import MeanPool

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


@runtime_checkable
class EmbedsTexts(Protocol):
    """What gives texts their embeddings: `vitlens.text.TextTower`."""

    scale: float
    bias: float | None
    output: str

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "text features"]: ...


def set_class_embeddings(
    model: "HookedViT",
    weight: Any,
    names: Sequence[str] | None = None,
    *,
    bias: Any = None,
    scale: float = 1.0,
    normalise: bool = False,
    space: str | None = None,
    output: str | None = None,
) -> None:
    """Replaces the model's classes by those of any linear or zero-shot classifier, for every analysis.

    logit_c = scale ⟨w_c, f⟩ + b_c. f is what the model's classifier reads ("features": as wide as `d_model`, twice as
    wide with class token and mean side by side) or what its head returns ("output": a CLIP tower's projection into the joint
    space).

    In place; `with_class_embeddings` leaves this model as it is.

    Args:
        weight: one row per class, [classes, features]: a linear probe, class prototypes, text embeddings. Or a
            `vitlens.text.TextTower`, which embeds the names, and says scale, bias, output and that rows are normalised.
        names: one per class; with a text tower the texts.
        bias: one number per class, or one for all, as SigLIP has it.
        scale: CLIP's exp(logit_scale).
        normalise: divide rows and features by their norms, as zero-shot classifiers do.
        space: "features" or "output", where the width of `weight` fits both.
        output: what the new logits mean, see `set_output`; by default "softmax", of a single class "identity".

    Raises:
        InputError: widths, names or biases that do not fit; values that are not finite, an embedding of zeros, a scale
            that is not positive; no such `output`.
    """
    if isinstance(weight, EmbedsTexts):
        if names is None:
            raise InputError("a text tower needs texts to embed: name the classes")
        tower, weight = weight, weight.embed(names)
        scale, bias, normalise = tower.scale, tower.bias, True
        if space is None and weight.shape[1] == _width_of_head(model.unembed):
            # The texts lie in the space of what the model returns, also where what its head reads is as wide.
            space = "output"
        # The softmax of a single text would be 1: its logit is a number.
        if output is None and not (len(weight) == 1 and tower.output == "softmax"):
            output = tower.output
    weight, bias, scale = read_embeddings(weight, bias, scale, model.cfg.model_name, next(model.parameters()))
    meaning = default_output(len(weight)) if output is None else check_output(output, len(weight))
    chosen_names = None if names is None else check_class_names(names, len(weight))
    if model.is_distilled and normalise:
        raise InputError("a distilled model averages what two tokens say, which normalised features cannot do")

    def embeddings(head: Classifier | None) -> ClassEmbeddings:
        projection = choose_projection(head, weight.shape[1], model.pool.width(model.cfg.d_model), space)
        if projection is None and head is not None and "fold_ln" in model.cfg.processed and not model.reads_stream:
            raise InputError(
                "fold_ln moved the last norm's affine part into the classifier, so the features are not timm's: "
                "set these class embeddings on a model without fold_ln"
            )
        return ClassEmbeddings(projection, weight, bias, scale, normalise)

    second = embeddings(model.unembed_dist) if model.is_distilled else None
    model.unembed, model.unembed_dist = embeddings(model.unembed), second
    model.cfg.d_vocab = len(weight)
    model.class_names, model.cfg.output = chosen_names, meaning
    # The classifier that was there may have had hook points.
    model.setup()


def set_text_tower(model: "HookedViT", tower: EmbedsTexts | None) -> None:
    """Gives the model the text tower that it was trained with: calls that take `classes=` then take `text=` in its place.

        model.set_text_tower(tower)
        vitlens.class_lens(model, images, text=["a dog", "a cat"])

    is the same as a lens on all classes of `model.with_class_embeddings(tower, ["a dog", "a cat"])`. The model's own classes
    stay as they are.

    Args:
        tower: a `vitlens.text.TextTower`; None takes it away.

    Raises:
        InputError: something that embeds no texts.
    """
    if tower is not None and not isinstance(tower, EmbedsTexts):
        raise InputError(
            "a text tower embeds texts and says scale, bias and output, as vitlens.text.TextTower(function) does with a "
            f"function from a list of strings to a tensor, not {short(tower)}"
        )
    # A tower that is a module is none of this model's: its weights are not among the parameters.
    object.__setattr__(model, "text_tower", tower)


def with_class_embeddings(
    model: "HookedViT",
    weight: Any,
    names: Sequence[str] | None = None,
    *,
    bias: Any = None,
    scale: float = 1.0,
    normalise: bool = False,
    space: str | None = None,
    output: str | None = None,
) -> "HookedViT":
    """The same model with other class embeddings, for lens, attribution, patching and heatmaps.

    Weights and hook points are shared with this model, which keeps its own classes.

        text = model.with_class_embeddings(clip_text_features, ["a dog", "a cat"], scale=100.0, normalise=True)
        probe = model.with_class_embeddings(weights, ["striped"], bias=bias, space="residual")

    Args:
        weight: directions [classes, features], or one of them: text embeddings, probe weights, differences of means.
        names, bias, scale, normalise, output: as in `set_class_embeddings`.
        space: "features", "output", or "residual": the residual stream as it is. Any block's hidden state is then read
            by logit_c = scale ⟨w_c, x⟩ + b_c without any norm, and the model's answer is the mean over the tokens that
            its classifier reads (over all tokens, where it reads class token and mean of the patches side by side).

    Raises:
        InputError: as `set_class_embeddings`.
    """
    view = copy(model)
    view._modules = dict(model._modules)
    view.cfg = replace(model.cfg)
    if space == "residual":
        read_the_stream(view)
        space = "features"
    view.set_class_embeddings(weight, names, bias=bias, scale=scale, normalise=normalise, space=space, output=output)
    return view


def read_the_stream(model: "HookedViT") -> None:
    """Removes everything between the residual stream and the classifier."""
    model.reads_stream = True
    model.ln_final, model.fc_norm = None, None
    if not isinstance(model.pool, MeanPool):
        model.pool = MeanPool(model.pool.tokens)


def read_like(model: "HookedViT", other: "HookedViT") -> None:
    """Copies the class embeddings that were set on another model of this architecture."""
    if other.reads_stream:
        read_the_stream(model)
    model.unembed, model.unembed_dist = other.unembed, other.unembed_dist
    model.cfg.d_vocab, model.class_names = other.cfg.d_vocab, other.class_names
    model.setup()


def _width_of_head(head: Classifier | None) -> int | None:
    """The width of what the model's own head returns."""
    own = head.projection if isinstance(head, ClassEmbeddings) else head
    return None if own is None else n_outputs(own)


def choose_projection(head: Classifier | None, n_features: int, width: int, space: str | None) -> OwnClassifier | None:
    """What stands in front of new class embeddings of width `n_features`: the model's head, which reads `width`, or none.

    Raises:
        InputError: the width fits neither the pooled vector nor the head's output, or both.
    """
    own = head.projection if isinstance(head, ClassEmbeddings) else head
    widths = {"features": width} | ({"output": n_outputs(own)} if own is not None else {})
    if space is not None and space not in widths:
        raise InputError(
            f'space is "features" (what the classifier reads) or "output" (what the model\'s head returns)'
            f"{'' if own is not None else '; this model has no head'}, not {space!r} (with_class_embeddings also reads "
            'the "residual" stream)'
        )
    fitting = [name for name, width in widths.items() if width == n_features and space in (None, name)]
    if not fitting:
        known = " or ".join(f"{width} ({name})" for name, width in widths.items())
        raise InputError(f"class embeddings of width {n_features} do not fit this model, which has {known}")
    if len(fitting) > 1:
        raise InputError(
            f"class embeddings of width {n_features} fit what the classifier reads and what it returns: "
            'pass space="features" or space="output"'
        )
    if fitting != ["output"]:
        return None
    return own.unwatched() if isinstance(own, LayeredClassifier) else own


def read_embeddings(
    weight: Any, bias: Any, scale: Any, model: str, like: Tensor
) -> tuple[Float[Tensor, "classes features"], Float[Tensor, "classes"] | None, float]:
    """Class embeddings, bias and scale as `set_class_embeddings` takes them, in the dtype and on the device of `like`.

    Raises:
        InputError: what is not numbers, of another shape, not finite in this dtype; an embedding of zeros; a scale that is
            not positive.
    """
    if isinstance(weight, Tensor) and not (weight.is_floating_point() or weight.is_complex()):
        raise InputError(f"class embeddings for {model} are floats [classes, features], not {weight.dtype}")
    rows = _numbers(weight, "class embeddings", like)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or not rows.numel():
        raise InputError(f"class embeddings for {model} are floats [classes, features], not {list(rows.shape)}")
    for empty in (~rows.any(dim=1)).nonzero()[:1, 0].tolist():
        raise InputError(f"the embedding of class {empty} is all zeros, which points to no class: leave it out")
    shift = None if bias is None else _numbers(bias, "biases", like)
    shift = shift.expand(len(rows)) if shift is not None and not shift.ndim else shift
    if shift is not None and tuple(shift.shape) != (len(rows),):
        raise InputError(f"bias is one number, or one number per class, [{len(rows)}], not {list(shift.shape)}")
    factor = _numbers(scale, "values of scale", like)
    if factor.numel() != 1 or factor.item() <= 0:
        raise InputError(f"scale is a positive number (CLIP's exp(logit_scale)), not {scale!r}")
    if not (factor * rows).isfinite().all():
        raise InputError(f"the class embeddings times their scale overflow {like.dtype}")
    return rows, shift, float(scale)


def _numbers(given: Any, what: str, like: Tensor) -> Tensor:
    """Finite real numbers, where `like` is and in its dtype."""
    try:
        numbers = torch.as_tensor(given).detach()
        if numbers.is_floating_point() and not hasattr(given, "dtype"):
            # Python's numbers have double precision, which torch would halve.
            numbers = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{what} are numbers, not {type(given).__name__}") from None
    if numbers.is_complex() or numbers.dtype == torch.bool or numbers.layout != torch.strided or numbers.is_meta:
        kind = numbers.dtype if numbers.layout == torch.strided and not numbers.is_meta else numbers
        raise InputError(f"{what} are real numbers in a dense tensor, not {kind}")
    if not numbers.isfinite().all():
        raise InputError(f"{what} contain NaN or infinite values")
    numbers = numbers.to(like.device, like.dtype)
    if not numbers.isfinite().all():
        raise InputError(f"{what} overflow {like.dtype}, in which the model computes")
    return numbers
