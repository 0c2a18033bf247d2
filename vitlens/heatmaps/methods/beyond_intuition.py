"""Beyond Intuition: the tokens' share of the pooled representation (perception) times the class's gradient (feedback)."""

from collections.abc import Callable
from functools import partial

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.shared.block_by_block import PartRun, streams_between_blocks, through_block, through_head
from vitlens.heatmaps.shared.last_attention import (
    follow_rows,
    integrated_feedback,
    reads_by_attention,
    rows_that_are_read,
    run_and_read,
    weights_of_rows,
)
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.parts.attention import Attention
from vitlens.model.parts.pooling import AttentionPool

PERCEPTIONS = ("token", "head")
#: Ā of each block from the first to the last, then of the pool where it attends; and the last stream.
Perceived = tuple[list[Float[Tensor, "image query key"]], Float[Tensor, "image token d"]]


def beyond_intuition(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    perception: str = "token",
    n_steps: int = 20,
    first_block: int = 0,
    along: str = "pictures",
    batch_size: int | None = None,
) -> Float[Tensor, "image patch"]:
    """P ∘ F at the row that is read: P = (Ā_L + I) ⋯ (Ā_1 + I), F = E_h[(∫₀¹ ∂y_c(α x)/∂A_L dα)⁺], at the patches.

    Perception P replaces a block's attention Z ↦ A Z W by a matrix from the left, Ā Z. Token-wise (BI-Token):

        Ā[i, j] = E_h[A_h][i, j] · ‖Σ_h v_j^h W_O^h‖ / ‖z_j‖,

    z_j the stream that enters the block, v_j its value vectors (their bias with them, W_O's left out): attention times how
    much longer or shorter it makes a token. Head-wise (BI-Head): Ā = Σ_h θ_h A_h with θ_h = I_h / Σ I_h and I_h the mean
    size of the entries of A_hᵀ ∂y_c/∂A_h. Norms, gates and MLPs are left out. Feedback F is that of `transition_attention`.

    Where several tokens are read, the map is Σ_q w_q P[q] ∘ F[q] over their rows, w_q what each counts (`read_weights`): the
    paper's sum over rows for global pooling, up to its scale. With attention pooling P begins with the pool's own Ā (z the
    stream that it reads), without I, since its query is no token, and F is that of the pool's pattern.

    Args:
        perception: "token" or "head".
        n_steps: midpoints of the integral.
        first_block: the first block of P; the authors' own results on 12 blocks begin at block 5 (token), 3 (head).
        along: see `transition_attention`.
        batch_size: rows, pictures × steps, of one forward; by default at most 64, and what is free holds.

    Returns:
        Importances, not negative but for differential attention, whose patterns are differences.

    Raises:
        InputError: an unknown perception, way (`along`) or block, fewer than one step, a model without a classifier.

    Source: Chen, Li, Yu, Dou & Xiong 2023 (Beyond Intuition), TMLR, sections on attention perception and reasoning
    feedback; v and I_h in detail as in their released code, where the integral is a sum over α with both ends.
    """
    if perception not in PERCEPTIONS:
        raise InputError(f"perception is one of {', '.join(PERCEPTIONS)}, not {perception!r}")
    first = model.block_index(first_block)
    feedback = integrated_feedback(model, images, classes, n_steps, along, batch_size)
    perceive = _token_wise if perception == "token" else _head_wise
    matrices, last = perceive(model, images, classes, first)
    n_tokens = last.shape[1]
    if reads_by_attention(model):
        rows = rows_that_are_read(model, matrices.pop(), n_tokens)
    else:
        own = torch.eye(n_tokens, dtype=feedback.dtype, device=feedback.device)
        rows = rows_that_are_read(model, own.expand(len(images), -1, -1), n_tokens)
    perceived = follow_rows(rows, matrices)
    mapped = einsum(weights_of_rows(model, last), perceived * feedback, "b q, b q k -> b k")
    return mapped[:, model.cfg.n_prefix_tokens :]


def _token_wise(
    model: HookedViT, images: Float[Tensor, "image channels height width"], classes: Int[Tensor, "image"], first: int
) -> Perceived:
    lengths: list[Float[Tensor, "image key"]] = []
    matrices: list[Float[Tensor, "image query key"]] = []

    def keep_length(stream: Float[Tensor, "image token d"], tokens: slice = slice(None)) -> None:
        lengths.append(stream[:, tokens].norm(dim=-1))

    def stretch(attn: Attention | AttentionPool, v: Float[Tensor, "image key head d_head"]) -> None:
        written = einsum(v, attn.W_O, "b t h e, h e d -> b t d")
        lengths.append(written.norm(dim=-1) / lengths.pop())

    def keep_matrix(pattern: Float[Tensor, "image head query key"]) -> None:
        matrices.append(pattern.mean(dim=1) * lengths.pop()[:, None])

    readers: list[tuple[str, Callable[[Tensor], None]]] = []
    for index in range(first, model.cfg.n_layers):
        readers += [
            (hook_name(index, "resid_pre"), keep_length),
            (hook_name(index, "attn.v"), partial(stretch, model.blocks[index].attn)),
            (hook_name(index, "attn.pattern"), keep_matrix),
        ]
    if isinstance(model.pool, AttentionPool):
        readers += [
            (hook_name(model.cfg.n_layers - 1, "resid_post"), partial(keep_length, tokens=model.pool.tokens)),
            ("pool.hook_v", partial(stretch, model.pool)),
            ("pool.hook_pattern", keep_matrix),
        ]
    last = run_and_read(model, images, readers)
    return matrices, last


def _head_wise(
    model: HookedViT, images: Float[Tensor, "image channels height width"], classes: Int[Tensor, "image"], first: int
) -> Perceived:
    grid = model.embed.grid(*images.shape[-2:])
    streams = streams_between_blocks(model, images, first)
    last = streams.pop()
    run = through_head(model, last, classes, ["hook_pattern"] if reads_by_attention(model) else [], grid)
    matrices = [_by_importance(run.seen["hook_pattern"], run)] if reads_by_attention(model) else []
    for block in reversed(range(first, model.cfg.n_layers)):
        run = through_block(model, streams.pop(), block, run.of_stream, ["attn.hook_pattern"], grid)
        matrices.append(_by_importance(run.seen["attn.hook_pattern"], run))
    return matrices[::-1], last


def _by_importance(pattern: Float[Tensor, "image head query key"], run: PartRun) -> Float[Tensor, "image query key"]:
    """Σ_h θ_h A_h."""
    assert run.of_pattern is not None
    importance = (pattern.mT @ run.of_pattern).abs().mean(dim=(-2, -1))
    # Where the block's attention does nothing for the class, no head has a share.
    whole = importance.sum(dim=1, keepdim=True).clamp(min=torch.finfo(importance.dtype).tiny)
    return einsum(importance / whole, pattern, "b h, b h q k -> b q k")
