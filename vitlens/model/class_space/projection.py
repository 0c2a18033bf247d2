"""Projects hidden states onto the classes: single tokens, or a whole last residual stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitlens.model.class_space.classifier import plain_logits
from vitlens.model.class_space.readout import Readout, linear_readout

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def project(
    model: "HookedViT", x: Float[Tensor, "*batch tokens d"], tokens: Sequence[int]
) -> Float[Tensor, "*batch tokens classes"]:
    """Projects hidden states of the given tokens onto the classes, past all hook points: p(v) = E ν(v) + b (Methods A1).

    p(v) is what the model would answer if every token that it reads were v: ν is the norm between stream and
    classifier, and with attention pooling also the value path and the MLP of the pool. Of a distilled model the
    class token is read by its classifier, the distillation token by the other, any other token by the mean of both.
    """
    unembed, *dist_heads = model.classifiers
    x = _before_classifier(model, x)
    logits = plain_logits(unembed, x)
    if dist_heads:
        share = logits.new_tensor([{0: 0.0, 1: 1.0}.get(token, 0.5) for token in tokens])[:, None]
        logits = (1 - share) * logits + share * plain_logits(dist_heads[0], x)
    return logits


def project_chosen(
    model: "HookedViT", x: Float[Tensor, "batch tokens d"], tokens: Sequence[int], classes: Int[Tensor, "batch"]
) -> Float[Tensor, "batch tokens"]:
    """`project` for one class per picture: for a linear classifier, one product per token instead of one per class."""
    unembed = model.unembed
    if model.is_distilled or not isinstance(unembed, nn.Linear):
        logits = model.project(x, tokens)
        return logits.gather(-1, classes[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(-1)
    logits = einsum(_before_classifier(model, x), unembed.weight[classes], "b t d, b d -> b t")
    return logits if unembed.bias is None else logits + unembed.bias[classes][:, None]


def _before_classifier(model: "HookedViT", x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch pooled"]:
    """What the classifier would read if every token that the model reads were x."""
    if model.ln_final is not None:
        x = model.ln_final.normalise(x)
    x = model.pool.of_one(x)
    return x if model.fc_norm is None else model.fc_norm.normalise(x)


def read_out(model: "HookedViT", resid: Float[Tensor, "batch tokens d"]) -> Float[Tensor, "batch classes"]:
    """The logits for this last residual stream, without passing hook points."""
    unembed, *dist_heads = model.classifiers
    if model.ln_final is not None:
        resid = model.ln_final.normalise(resid)
    pooled = model.pool.read(resid)
    logits = plain_logits(unembed, pooled if model.fc_norm is None else model.fc_norm.normalise(pooled))
    if dist_heads and model.pool_dist is not None:
        logits = (logits + plain_logits(dist_heads[0], model.pool_dist.read(resid))) / 2
    return logits


def linear_readouts(model: "HookedViT", resid: Float[Tensor, "batch tokens d"]) -> list[Readout]:
    """Linear maps of the last residual stream whose sum is exactly the logits; everything nonlinear is frozen.

    One for most models, two for a distilled one. `resid` [batch, tokens, d] is the last `resid_post`.
    """
    unembed, *dist_heads = model.classifiers
    readout = linear_readout(resid, model.pool, model.ln_final, model.fc_norm, unembed)
    if not dist_heads or model.pool_dist is None:
        return [readout]
    dist = linear_readout(resid, model.pool_dist, model.ln_final, None, dist_heads[0])
    return [readout * 0.5, dist * 0.5]
