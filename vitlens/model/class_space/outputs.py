"""What a model's outputs mean (`model.cfg.output`), and the probabilities and the loss that follow from it."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vitlens.errors import InputError
from vitlens.model.checks import check_labels, check_yes_or_no

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

MEANINGS = ("softmax", "sigmoid", "identity", "embedding")
#: Of these the logits are turned into probabilities.
WITH_PROBABILITIES = ("softmax", "sigmoid")


def default_output(n_outputs: int) -> str:
    """Several outputs are classes that exclude each other; a single one is a number as it is; none is an embedding."""
    if not n_outputs:
        return "embedding"
    return "softmax" if n_outputs > 1 else "identity"


def check_output(output: Any, n_outputs: int) -> str:
    """The same, if a model with so many outputs can have it.

    Raises:
        InputError: no such meaning, or one that does not fit the number of outputs.
    """
    if output not in MEANINGS:
        raise InputError(f"output is one of {', '.join(map(repr, MEANINGS))}, not {output!r}")
    if not n_outputs and output != "embedding":
        raise InputError(
            f"a model without a classifier returns an embedding, so output={output!r} does not fit: load it with its "
            "classifier, or give it one with model.set_class_embeddings"
        )
    if n_outputs == 1 and output == "softmax":
        raise InputError(
            'the softmax of a single output is 1 whatever the model computes: pass output="sigmoid" for a probability, '
            'or output="identity" for a number'
        )
    return str(output)


def set_output(model: "HookedViT", output: str) -> None:
    """Sets what the model's outputs mean, for every analysis; in place.

    - "softmax": classes that exclude each other. Their probabilities sum to 1.
    - "sigmoid": each output is a yes or no of its own: several labels, or a single one. Its probability is σ(logit), and
      a class is predicted where this is above one half.
    - "identity": numbers as they are, such as those of a regression. They have no probability, rank or predicted class.
    - "embedding": features, such as those of a CLIP tower. They are no classes: see `set_class_embeddings`.

    Raises:
        InputError: no such meaning; a softmax of a single output; classes of a model that has no classifier.
    """
    model.cfg.output = check_output(output, model.cfg.n_classes)


def probabilities(
    logits: Float[Tensor, "*batch classes"], output: str, of: Float[Tensor, "*batch chosen"] | None = None
) -> Float[Tensor, "*batch chosen"]:
    """The probabilities of the classes, by a softmax over all of them or by a sigmoid of each.

    Args:
        of: the logits of some of the classes, whose probabilities alone are wanted: no tensor of all is made then.
    """
    return log_probabilities(logits, output, of).exp().to(logits.dtype)


def log_probabilities(
    logits: Float[Tensor, "*batch classes"], output: str, of: Float[Tensor, "*batch chosen"] | None = None
) -> Float[Tensor, "*batch chosen"]:
    """The logarithms of `probabilities`.

    Raises:
        ValueError: outputs without probabilities, which callers refuse first (`require_probability`).
    """
    chosen = logits if of is None else of
    # In bfloat16 the rounding of the normaliser alone would change the probabilities by some percent.
    wide = torch.promote_types(logits.dtype, torch.float32)
    if output == "sigmoid":
        return F.logsigmoid(chosen.to(wide))
    if output != "softmax":
        raise ValueError(f"outputs that are {output!r} have no probabilities")
    return chosen - logits.to(wide).logsumexp(dim=-1, keepdim=True)


def kl_divergence(
    logits: Float[Tensor, "*batch classes"], others: Float[Tensor, "*batch classes"], output: str
) -> Float[Tensor, "*batch"]:
    """The Kullback-Leibler divergence of the others' probabilities from these; of sigmoids summed over the outputs."""
    own, other = log_probabilities(logits, output), log_probabilities(others, output)
    terms = own.exp() * (own - other)
    if output == "sigmoid":
        # The log-probability of a no is that of a yes with the opposite logit.
        no, no_of_others = log_probabilities(-logits, output), log_probabilities(-others, output)
        terms = terms + no.exp() * (no - no_of_others)
    return terms.sum(dim=-1)


def largest_other(logits: Float[Tensor, "*batch classes"], classes: Int[Tensor, "*batch"]) -> Any:
    """The largest logit of another class, and that class: `values` and `indices` [*batch]."""
    return logits.scatter(-1, classes[..., None], -torch.inf).max(dim=-1)


def is_predicted(
    logits: Float[Tensor, "*batch classes"], classes: Int[Tensor, "*batch"], output: str
) -> Float[Tensor, "*batch"]:
    """1 where the class is predicted, else 0: it has the largest logit, or (sigmoid) more than one half."""
    if output == "sigmoid":
        predicted = logits.gather(-1, classes[..., None])[..., 0] > 0
    else:
        predicted = logits.argmax(dim=-1) == classes
    return predicted.to(logits.dtype)


def loss(model: "HookedViT", logits: Float[Tensor, "batch classes"], labels: Any) -> Float[Tensor, ""]:
    """The mean cross-entropy against the classes [batch]; of sigmoids that against yes or no of every output.

    Raises:
        InputError: labels that do not fit.
    """
    if model.cfg.output == "sigmoid":
        return F.binary_cross_entropy_with_logits(logits, check_yes_or_no(labels, logits))
    return F.cross_entropy(logits, check_labels(labels, len(logits), logits.shape[-1], logits.device))
