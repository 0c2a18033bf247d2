"""Class projection: the logit of the class at each patch token, projected onto the class embeddings."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.model.class_space.outputs import probabilities
from vitlens.model.hooked_vit import HookedViT

PROJECTION_METRICS = ("logit", "probability", "identifiability")


def class_projection(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    block: int | None = -1,
    metric: str = "logit",
) -> Float[Tensor, "image patch"]:
    """The class's logit in p(v) = E ν(v) + b for every patch token v of a block's `resid_post` (Methods A1).

    p(v) is what the model would answer if every token that it reads were v (`HookedViT.project`).

    Args:
        block: whose output is projected; None: the sum over all blocks.
        metric: "logit" p(v)_c, which has a sign; "probability", that of p(v) by the model's softmax or sigmoid; or
            "identifiability" 1 − rank / C, with rank the number of classes whose logit exceeds that of c (Methods A2).

    Raises:
        InputError: a block or metric that does not exist, a model without a classifier, a probability or rank that
            its outputs do not have.

    Source: Vilas, Schaumlöffel & Roig 2023, section 3; Methods A1, A2.
    """
    if metric not in PROJECTION_METRICS:
        raise InputError(f"metric is one of {', '.join(PROJECTION_METRICS)}, not {metric!r}")
    model.require_classifier()
    if metric == "probability":
        model.require_probability()
    if metric == "identifiability":
        model.require_rank("a rank")
    grid = model.embed.grid(*images.shape[-2:])
    last = model.cfg.n_layers - 1 if block is None else model.block_index(block)
    with torch.no_grad():
        stream = model(images, stop_at_layer=0 if block is None else last)
        found = []
        for index in range(0 if block is None else last, last + 1):
            stream = model(stream, start_at_layer=index, stop_at_layer=index + 1, grid=grid)
            found.append(_measured(model, stream, classes, metric))
    return torch.stack(found).sum(dim=0)


def _measured(
    model: HookedViT, stream: Float[Tensor, "image tokens d"], classes: Int[Tensor, "image"], metric: str
) -> Float[Tensor, "image patch"]:
    n_prefix = model.cfg.n_prefix_tokens
    tokens = range(n_prefix, stream.shape[1])
    patches = stream[:, n_prefix:]
    if metric == "logit":
        return model.project_chosen(patches, tokens, classes)
    # All classes of all patches, for one picture at a time.
    return torch.cat(
        [
            _of_all(model, model.project(own, tokens), chosen, metric)
            for own, chosen in zip(patches.split(1), classes.tolist(), strict=True)
        ]
    )


def _of_all(
    model: HookedViT, logits: Float[Tensor, "image patch classes"], chosen: int, metric: str
) -> Float[Tensor, "image patch"]:
    """The measures that take the logits of all classes."""
    if metric == "probability":
        return probabilities(logits, model.cfg.output, logits[..., chosen, None])[..., 0]
    rank = (logits > logits[..., chosen, None]).sum(dim=-1)
    return 1 - rank.to(logits.dtype) / logits.shape[-1]
