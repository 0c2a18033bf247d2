"""Relevance propagation: LRP through every layer, then the rollout of attention's relevance times its gradient."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.block_by_block import PartRun, streams_between_blocks, through_block, through_head
from vitlens.heatmaps.shared.reading import read_weights
from vitlens.heatmaps.shared.relevance_rules import add_rule, divide, linear_rule, matmul_rule
from vitlens.model.class_space.classifier import ClassEmbeddings, Classifier, frozen_rows, kind_of, plain_logits
from vitlens.model.class_space.layered import LINEAR
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.linear import effective_weight
from vitlens.model.parts.mlp import MLP, GatedMLP
from vitlens.model.parts.pooling import AttentionPool, ClassAndMeanPool, MaxPool, MeanPool, Pool

Seen = dict[str, Tensor]

_OF_ATTENTION = ["hook_q", "hook_k", "hook_v", "hook_pattern", "hook_z", "hook_q_normed", "hook_k_normed"]
#: What must be seen of a block, and of attention pooling.
OF_BLOCK = [
    *(f"attn.{name}" for name in [*_OF_ATTENTION, "hook_rot_q", "hook_rot_k"]),
    *("hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out"),
]
OF_POOL = [*_OF_ATTENTION, "hook_attn_out", "mlp.hook_post", "hook_mlp_out"]


def relevance_propagation(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    first_block: int = 0,
) -> Float[Tensor, "image patch"]:
    """C = Ā_B ⋯ Ā_1 with Ā_b = I + E_h[(∇A_b ∘ R_b)⁺] (equations 13 and 14): the row that is read, at the patches.

    ∇A is the gradient of the class's logit with respect to a block's pattern, R the relevance of the pattern, which LRP
    brings down from 1 at the class: `linear_rule` through linear layers, `add_rule` through skip connections,
    `matmul_rule` through A v and q kᵀ; norms, softmax and activations pass it on unchanged. Blocks are run again one by
    one from the last, each time with its share of the backward, and only the row that is read follows. (Equation 14 names
    the blocks in the opposite order; the released code multiplies as here, later blocks from the left.)

    Beyond the paper: sums of relevance run over each picture alone; LayerScale belongs to the linear layer before it.
    Relevance enters tokens as the pool weighs them, so uniformly for a mean; attention pooling is one more attention, and
    the row starts with it; two classifiers are two terms of a sum, and one of several layers counts as the linear map that
    it is at the picture's point. A gate takes half of the relevance of what it
    multiplies, as a factor does; parallel branches are terms of one sum; rotary positions pass relevance on unchanged.

    Where terms of a sum or a product cancel, fractions are large: single precision is right to a percent or two.

    Args:
        first_block: the first block of the rollout; the paper's own segmentation results leave out block 0.

    Returns:
        Importances, not negative, in which 1 is what the row's own token begins with.

    Raises:
        InputError: differential attention, for whose difference of two patterns the method has no rule.

    Source: Chefer, Gur & Wolf 2021 (Transformer Interpretability Beyond Attention Visualization), CVPR.
    """
    model.require_classifier()
    if any(block.attn.subtracts_patterns for block in model.blocks):
        raise InputError(
            "relevance propagation has no rule for differential attention, which subtracts one pattern from another: "
            "take a method of gradients"
        )
    first = model.block_index(first_block)
    grid = model.embed.grid(*images.shape[-2:])
    streams = streams_between_blocks(model, images, first)
    last = streams.pop()
    head = through_head(model, last, classes, OF_POOL if isinstance(model.pool, AttentionPool) else [], grid)
    with torch.no_grad():
        relevance, row = relevance_before_head(model, last, classes, head)
    gradient = head.of_stream
    for block in reversed(range(first, model.cfg.n_layers)):
        entered = streams.pop()
        run = through_block(model, entered, block, gradient, OF_BLOCK, grid)
        with torch.no_grad():
            relevance, of_pattern = relevance_before_block(model.blocks[block], entered, run.seen, relevance)
            row = row + einsum(row, _weighted(run, of_pattern), "b q, b q k -> b k")
        gradient = run.of_stream
    return row[:, model.cfg.n_prefix_tokens :]


def _weighted(
    run: PartRun, of_pattern: Float[Tensor, "image head query key"]
) -> Float[Tensor, "image query key"]:  # fmt: skip
    """E_h[(∇A ∘ R)⁺]."""
    assert run.of_pattern is not None
    return (run.of_pattern * of_pattern).clamp(min=0).mean(dim=1)


def relevance_before_block(
    block: AnyBlock, entered: Float[Tensor, "image token d"], seen: Seen, relevance: Float[Tensor, "image token d"]
) -> tuple[Float[Tensor, "image token d"], Float[Tensor, "image head query key"]]:
    """The relevance of the stream that entered a block, and of its pattern."""
    attn_out, mlp_out = seen["hook_attn_out"], seen["hook_mlp_out"]
    read = block.reads("attn", entered)
    if not block.has_middle:
        skipped, attended, computed = add_rule([entered, attn_out, mlp_out], relevance)
        skipped = skipped + _through_mlp(block.mlp, read, seen, computed)
    else:
        middle = seen["hook_resid_mid"]
        kept, computed = add_rule([middle, mlp_out], relevance)
        of_middle = kept + _through_mlp(block.mlp, block.reads("mlp", middle), seen, computed)
        skipped, attended = add_rule([entered, attn_out], of_middle)
    of_read, of_pattern = _through_attention(block.attn, read, seen, attended)
    return skipped + of_read, of_pattern


def _through_mlp(
    mlp: MLP, x: Float[Tensor, "*batch d"], seen: Seen, relevance: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch d"]:
    of_hidden = linear_rule(seen["mlp.hook_post"], effective_weight(mlp.fc2, mlp.gamma), relevance)
    if not isinstance(mlp, GatedMLP):
        return linear_rule(x, mlp.fc1.weight, of_hidden)
    x = x if mlp.ln_in is None else mlp.ln_in.normalise(x)
    return linear_rule(x, mlp.gate.weight, of_hidden / 2) + linear_rule(x, mlp.fc1.weight, of_hidden / 2)


def _through_attention(
    attn: Attention, x: Float[Tensor, "image token d"], seen: Seen, relevance: Float[Tensor, "image token d"]
) -> tuple[Float[Tensor, "image token d"], Float[Tensor, "image head query key"]]:
    """The relevance of what attention reads, and of its pattern."""
    z = rearrange(seen["attn.hook_z"], "b t h e -> b t (h e)")
    of_z = linear_rule(z, effective_weight(attn.proj, attn.gamma), relevance)
    of_x = torch.zeros_like(x)
    if attn.gate is not None:
        of_z = of_z / 2
        of_x = linear_rule(x, attn.gate.weight, of_z)
    named = {name.removeprefix("attn."): value for name, value in seen.items()}
    of_z = rearrange(of_z, "b t (h e) -> b t h e", h=attn.n_heads)
    of_pattern, *of_projections = _through_mixing(named, of_z)
    for weight, of_projection in zip(attn.project.matrices(), of_projections, strict=True):
        flat = rearrange(of_projection, "b t h e -> b t (h e)")
        of_x = of_x + linear_rule(x, rearrange(weight, "h d e -> (h e) d"), flat)
    return of_x, of_pattern


def _through_mixing(
    seen: Seen, of_z: Float[Tensor, "image query head d_head"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The relevance of the pattern [image, head, query, key], and of q, k and v [image, token, head, d_head]."""
    q, k = (_last_seen(seen, f"hook_rot_{name}", f"hook_{name}_normed", f"hook_{name}") for name in "qk")
    q, k, v, of_z = (x.transpose(1, 2) for x in (q, k, seen["hook_v"], of_z))
    of_pattern, of_v = matmul_rule(seen["hook_pattern"], v, of_z)
    of_q, of_k = matmul_rule(q, k.mT, of_pattern)
    return of_pattern, of_q.transpose(1, 2), of_k.mT.transpose(1, 2), of_v.transpose(1, 2)


def _last_seen(seen: Seen, *names: str) -> Tensor:
    return next(seen[name] for name in names if name in seen)


def relevance_before_head(
    model: HookedViT, last: Float[Tensor, "image token d"], classes: Int[Tensor, "image"], head: PartRun
) -> tuple[Float[Tensor, "image token d"], Float[Tensor, "image token"]]:
    """The relevance of the last stream, 1 standing at the class, and the row that the rollout starts with."""
    normed = last if model.ln_final is None else model.ln_final.normalise(last)
    pools = [pool for pool in (model.pool, model.pool_dist) if pool is not None]
    pooled = [pool.read(normed) for pool in pools]
    # The norm after the pool belongs to the first classifier alone.
    features = [pooled[0] if model.fc_norm is None else model.fc_norm.normalise(pooled[0]), *pooled[1:]]
    logits = [
        plain_logits(classifier, x).gather(1, classes[:, None])
        for classifier, x in zip(model.classifiers, features, strict=True)
    ]
    shares = add_rule(logits, torch.ones_like(logits[0])) if len(logits) > 1 else [torch.ones_like(logits[0])]
    relevance, row = torch.zeros_like(last), read_weights(model, last)
    for pool, classifier, x, share in zip(pools, model.classifiers, features, shares, strict=True):
        of_pooled = _through_classifier(classifier, x, classes, share)
        if isinstance(pool, AttentionPool):
            of_read, of_pattern = _through_attention_pool(pool, normed[:, pool.tokens], head.seen, of_pooled)
            row = torch.zeros_like(row)
            row[:, pool.tokens] = _weighted(head, of_pattern)[:, 0]
        else:
            of_read = _through_pool(pool, normed[:, pool.tokens], of_pooled)
        relevance[:, pool.tokens] += of_read
    return relevance, row


def _through_classifier(
    classifier: Classifier,
    x: Float[Tensor, "image d"],
    classes: Int[Tensor, "image"],
    share: Float[Tensor, "image 1"],
) -> Float[Tensor, "image d"]:
    if kind_of(classifier) != LINEAR:
        # The linear rule for the one row that the classifier is at the picture's point.
        positive = (x * frozen_rows(classifier, x, classes[:, None])[:, 0]).clamp(min=0)
        return positive * divide(share, positive.sum(dim=1, keepdim=True))
    linear = classifier.linear if isinstance(classifier, ClassEmbeddings) else classifier
    at_class = x.new_zeros(len(x), len(linear.weight)).scatter(1, classes[:, None], share)
    projection = classifier.projection if isinstance(classifier, ClassEmbeddings) else None
    if projection is None:
        return linear_rule(x, linear.weight, at_class)
    return linear_rule(x, projection.weight, linear_rule(projection(x), linear.weight, at_class))


def _through_pool(
    pool: Pool, read: Float[Tensor, "image read d"], relevance: Float[Tensor, "image pooled"]
) -> Float[Tensor, "image read d"]:
    """What each token counts in each feature, times the feature's relevance."""
    if isinstance(pool, ClassAndMeanPool):
        return einsum(pool.weights(read), rearrange(relevance, "b (g d) -> b g d", g=2), "b g t, b g d -> b t d")
    assert isinstance(pool, (MeanPool, MaxPool))
    weights = pool.weights(read)
    return (weights if weights.ndim == 3 else weights[..., None]) * relevance[:, None]


def _through_attention_pool(
    pool: AttentionPool, read: Float[Tensor, "image read d"], seen: Seen, relevance: Float[Tensor, "image pooled"]
) -> tuple[Float[Tensor, "image read d"], Float[Tensor, "image head 1 read"]]:
    """As through attention; the relevance of the learned query, which no token made, goes no further."""
    out, of_out = seen["hook_attn_out"], rearrange(relevance, "b d -> b 1 d")
    if pool.mlp is not None:
        kept, computed = add_rule([out, seen["hook_mlp_out"]], of_out)
        of_out = kept + _through_mlp(pool.mlp, out if pool.ln is None else pool.ln.normalise(out), seen, computed)
    of_z = linear_rule(rearrange(seen["hook_z"], "b q h e -> b q (h e)"), pool.proj.weight, of_out)
    named = seen | _normed_queries_and_keys(pool, seen)
    of_pattern, _, of_k, of_v = _through_mixing(named, rearrange(of_z, "b q (h e) -> b q h e", h=pool.n_heads))
    flat = torch.cat([rearrange(part, "b t h e -> b t (h e)") for part in (of_k, of_v)], dim=-1)
    return linear_rule(read, pool.kv.weight, flat), of_pattern


def _normed_queries_and_keys(pool: AttentionPool, seen: Seen) -> Seen:
    """The pool has no hook points after its norms of q and k."""
    norms = {"q": pool.q_norm, "k": pool.k_norm}
    return {
        f"hook_{name}_normed": norm.normalise(seen[f"hook_{name}"]) for name, norm in norms.items() if norm is not None
    }
