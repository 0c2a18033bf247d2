"""Transition attention maps: attention as a Markov chain from the pooled tokens, times integrated gradients of the last."""

from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.heatmaps.shared.last_attention import (
    follow_rows,
    integrated_feedback,
    last_pattern_name,
    reads_by_attention,
    rows_that_are_read,
    run_and_read,
    weights_of_rows,
)
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name


def transition_attention(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    n_steps: int = 20,
    first_block: int = 0,
    along: str = "pictures",
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """s_L = E_h[A_L], s_l = s_{l+1} E_h[A_l] + s_{l+1}, at the row that is read; the map is s_first ∘ W at the patches.

    The tokens of a layer are the states of a chain, its patterns, averaged over heads, the probabilities of moving on, and
    each step keeps the states before it as the skip connection does. W = E_h[(∫₀¹ ∂y_c(α x)/∂A_L dα)⁺] at the same row,
    y_c the class's logit: only the last attention's gradient, along the pictures α x from a picture of zeros.

    Where several tokens are read, the map is Σ_q w_q s[q] ∘ W[q] over their rows, w_q what each counts (`read_weights`);
    with attention pooling A_L is the pool's own pattern, and all blocks lie below. For class tokens it is the paper's.

    Args:
        n_steps: midpoints of the integral.
        first_block: the first block of the chain; the authors' own segmentation results begin at block 4 of 12.
        along: "pictures" as above; "attention": α A_L in place of A_L, in the run of the picture itself. This costs one run
            of the blocks in place of `n_steps`.
        batch_size: rows, pictures × steps, of one forward; by default at most 64, and what is free holds.

    Returns:
        Importances, not negative but for differential attention, whose patterns are differences.

    Raises:
        InputError: an unknown way (`along`) or block, fewer than one step, a model without a classifier.

    Source: Yuan, Li, Xiong, Cao & Dou 2021 (Explaining Information Flow Inside Vision Transformers Using Markov Chain),
    as their released code computes it; there, the integral is a sum over α from 0 to 1 with both ends.
    """
    first = model.block_index(first_block)
    feedback = integrated_feedback(model, images, classes, n_steps, along, batch_size)
    matrices: list[Float[Tensor, "image query key"]] = []
    names = [hook_name(block, "attn.pattern") for block in range(first, model.cfg.n_layers)]
    names += [last_pattern_name(model)] if reads_by_attention(model) else []
    last = run_and_read(model, images, [(name, lambda pattern: matrices.append(pattern.mean(dim=1))) for name in names])
    states = follow_rows(rows_that_are_read(model, matrices.pop(), last.shape[1]), matrices)
    mapped = einsum(weights_of_rows(model, last), states * feedback, "b q, b q k -> b k")
    return mapped[:, model.cfg.n_prefix_tokens :]
