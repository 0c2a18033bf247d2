"""A forward pass without some patches, which are removed after their positions were added; many selections at once."""

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.hooks.edits import may_be_edited
from vitlens.model.hooks.hook_points import Reader
from vitlens.model.parts.positions import Layout
from vitlens.model.runs.forward import classify, pool, run_blocks

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT

#: Which patches of the sequence are no padding, for hooks that follow them. It belongs to the run, not to the model: views
#: of one model share their hooks, and so do threads.
VALID_PATCHES: ContextVar[Tensor | None] = ContextVar("valid_patches", default=None)


class FollowsTokens:
    """A hook that asks `VALID_PATCHES` where tokens are missing, and does not count on each being at its place."""


@dataclass(frozen=True)
class KeptRun:
    """The last residual stream of the kept tokens, prefix tokens first, and the places of its patches.

    Pictures that keep fewer patches than others are padded: `valid` is False there.
    """

    logits: Float[Tensor, "batch classes"]
    resid: Float[Tensor, "batch tokens d"]
    patches: Int[Tensor, "batch kept"]
    valid: Bool[Tensor, "batch kept"]


def forward_kept(
    model: "HookedViT",
    stream: Float[Tensor, "batch tokens d"],
    keep: Bool[Tensor, "batch patches"],
    grid: tuple[int, int] | None = None,
) -> KeptRun:
    """Runs the blocks and the classifier on the patches that are kept and all prefix tokens (Methods B2, D3).

    The work shrinks with the tokens. Pictures that keep different numbers are padded, and no token attends to padding
    or to what is removed. Where positions are biases of each block's own, removed patches stay in the sequence and
    no token attends to them, which gives the same values at the full cost; so they do where hooks edit blocks, since a hook
    counts on every token being at its place. If a model pools patches only and
    none is left, its classifier gets a pooled vector of zeros.

    Args:
        stream: what enters block 0, `model(images, stop_at_layer=0)`: so it is computed once for many choices.
        keep: which patches stay.
        grid: rows and columns of patches, where they differ from the model's own.

    Raises:
        InputError: `keep` does not fit the stream.
    """
    n_prefix = model.cfg.n_prefix_tokens
    n_patches = stream.shape[1] - n_prefix
    if keep.shape != (len(stream), n_patches):
        raise InputError(
            f"keep is a bool tensor [{len(stream)}, {n_patches}], one entry per patch, not {list(keep.shape)}"
        )
    keep = keep.to(stream.device)
    layout = model.embed.layout_of_grid(grid or model.cfg.grid_size)
    if any(block.attn.rel_pos is not None for block in model.blocks) or _blocks_are_edited(model):
        patches, valid = torch.arange(n_patches, device=stream.device).expand_as(keep), keep
    else:
        counts = keep.sum(dim=1)
        # The pooling of patches needs a place to look at, even where nothing is kept.
        n_kept = max(int(counts.max()), 0 if _reads_prefix(model) else 1)
        patches = keep.int().argsort(dim=1, descending=True, stable=True)[:, :n_kept]
        valid = torch.arange(patches.shape[1], device=stream.device) < counts[:, None]
        prefix = torch.arange(n_prefix, device=stream.device).expand(len(stream), -1)
        tokens = torch.cat([prefix, patches + n_prefix], dim=1)
        stream = stream.gather(1, tokens[..., None].expand(-1, -1, stream.shape[-1]))
        layout = _take(layout, tokens, patches)
    layout = _without_padding(layout, valid, n_prefix, stream.dtype)
    outer = VALID_PATCHES.set(valid)
    try:
        resid = run_blocks(model, stream, layout)
    finally:
        VALID_PATCHES.reset(outer)
    return KeptRun(_logits_of_kept(model, resid, layout, valid), resid, patches, valid)


def forward_masked(
    model: "HookedViT",
    stream: Float[Tensor, "batch tokens d"],
    mask: Float[Tensor, "batch patches"],
    grid: tuple[int, int] | None = None,
) -> Float[Tensor, "batch classes"]:
    """The logits when patch j is present only to the extent m_j: every head's A[q, j] ∝ m_j exp(s[q, j]) (Methods D4).

    The limit m_j = 0 is the removal of the patch, as in `forward_kept`; 1 leaves it as it is; between them lies a smooth
    path, along which gradients can be taken. What pools patches weighs them in the same way. Prefix tokens are whole.

    Args:
        stream: what enters block 0, `model(images, stop_at_layer=0)`.
        mask: in (0, 1], one number per patch.
        grid: rows and columns of patches, where they differ from the model's own.

    Raises:
        InputError: `mask` does not fit the stream.
    """
    n_prefix = model.cfg.n_prefix_tokens
    if mask.shape != (len(stream), stream.shape[1] - n_prefix):
        raise InputError(
            f"the mask is a float tensor [{len(stream)}, {stream.shape[1] - n_prefix}], one entry per patch, not "
            f"{list(mask.shape)}"
        )
    whole = nn.functional.pad(mask, (n_prefix, 0), value=1.0)
    layout = model.embed.layout_of_grid(grid or model.cfg.grid_size)
    presence = whole.log()[:, None, None]
    layout = replace(layout, bias=presence if layout.bias is None else layout.bias + presence)
    resid = run_blocks(model, stream, layout)
    normed = resid if model.ln_final is None else model.ln_final(resid)
    features = [_normed(model, model.pool.masked(normed, whole))]
    if model.pool_dist is not None:
        features.append(model.pool_dist.masked(normed, whole))
    return classify(model, features)


def _logits_of_kept(
    model: "HookedViT", resid: Tensor, layout: Layout, valid: Bool[Tensor, "batch kept"]
) -> Float[Tensor, "batch classes"]:
    logits = classify(model, pool(model, resid, layout))
    nothing = ~valid.any(dim=1)
    if _reads_prefix(model) or not nothing.any():
        return logits
    # Pooling over nothing is undefined: zeros stand for it, whatever the pooling.
    zeros = resid.new_zeros(len(resid), model.pool.width(resid.shape[-1]))
    return torch.where(nothing[:, None], classify(model, [_normed(model, zeros)]), logits)


def _blocks_are_edited(model: "HookedViT") -> bool:
    """Whether hooks may edit the blocks that are not written for missing tokens."""
    points = [point for block in model.blocks for point in block.modules() if isinstance(point, HookPoint)]
    hooks = [handle.user_hook for point in points if may_be_edited(point) for handle in point.fwd_hooks]
    return any(not isinstance(hook, (Reader, FollowsTokens)) for hook in hooks)


def _reads_prefix(model: "HookedViT") -> bool:
    return (model.pool.tokens.start or 0) < model.cfg.n_prefix_tokens


def _normed(model: "HookedViT", pooled: Tensor) -> Tensor:
    return pooled if model.fc_norm is None else model.fc_norm(pooled)


def _take(layout: Layout, tokens: Int[Tensor, "batch kept_tokens"], patches: Int[Tensor, "batch kept"]) -> Layout:
    """The layout of each picture's own tokens: angles [(block), batch, (head), patch, angle], biases by both axes."""
    angles, bias = layout.angles, layout.bias
    if angles is not None:
        # [..., patch, angle] → [..., batch, kept, angle]; heads, where they have their own, come after the pictures.
        angles = angles[..., patches, :]
        leading = angles.ndim - 3 - layout.angles_per_block
        angles = angles.movedim(-3, int(layout.angles_per_block)) if leading else angles.unsqueeze(-3)
    if bias is not None:
        rows = tokens[:, None, :, None]
        columns = tokens[:, None, None, :]
        n_images, n_heads = len(tokens), bias.shape[1]
        images = torch.arange(n_images, device=bias.device).reshape(-1, 1, 1, 1)
        heads = torch.arange(n_heads, device=bias.device).reshape(1, -1, 1, 1)
        bias = bias.expand(n_images, -1, -1, -1)[images, heads, rows, columns]
    return Layout(angles, layout.angles_per_block, bias)


def _without_padding(layout: Layout, valid: Bool[Tensor, "batch kept"], n_prefix: int, dtype: torch.dtype) -> Layout:
    """The layout in which attention and pooling leave out padding; unchanged if there is none."""
    if valid.all() and valid.shape[1]:
        return layout
    # A row of −∞ has no softmax: pictures without any token attend to their padding, which nobody reads.
    attended = valid if n_prefix else valid | ~valid.any(dim=1, keepdim=True)
    padding = nn.functional.pad(~attended, (n_prefix, 0))
    bias = torch.zeros(padding.shape, dtype=dtype, device=valid.device).masked_fill(padding, float("-inf"))
    bias = bias[:, None, None]
    return Layout(layout.angles, layout.angles_per_block, bias if layout.bias is None else layout.bias + bias, valid)
