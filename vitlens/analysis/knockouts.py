"""Attention knockouts: chosen edges of the attention pattern cut, or replaced (METHODS.md B1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.analysis.results import Result
from vitlens.analysis.tokens import TokenSet, token_mask
from vitlens.analysis.trace import Hooks
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT

HOW = ("zero", "renormalise", "mean", "other")


@dataclass(frozen=True)
class Edges:
    """Attention edges: which queries do not see which keys, in which blocks and heads (None: in all).

    `except_self` leaves every token its view of itself.
    """

    queries: TokenSet = "all"
    keys: TokenSet = "all"
    blocks: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    except_self: bool = False


#: The two knockouts of the paper: what is cut, and how.
PUBLISHED = {
    "self_only": (Edges("patches", "all", except_self=True), "renormalise"),
    "no_cls": (Edges("patches", "class"), "zero"),
}


def knockout_hooks(
    model: HookedViT,
    images: Pictures,
    edges: str | Edges | Sequence[Edges],
    how: str | None = None,
    *,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
) -> Hooks:
    """The hooks that cut attention edges, for `model.hooks(…)`, `run_with_hooks` or any analysis run inside them.

    Args:
        images: the pictures of the run (their number and size are what is read, and for "mean" their patterns).
        edges: "self_only" (every patch attends to itself only, with weight 1; the class token's row is untouched),
            "no_cls" (patches do not see the class token), or any `Edges`, one or several.
        how: "zero": set to 0 after softmax, the rest as it was (paper); "renormalise": −∞ before softmax; "mean": the
            mean pattern over the pictures; "other": the pattern of `others`. By default "zero", and for "self_only"
            "renormalise", which is what makes the one weight that is left 1.
        masks: object masks, for edges between "object" and "context".
        others: one picture for each of `images`.

    Raises:
        InputError: an unknown name, block, head or token; no class token to cut; a query that would be left without a key;
            `others` that are missing or of another number.

    Source: Vilas, Schaumlöffel & Roig 2023, section 4; METHODS.md B1.
    """
    pictures = model.as_images(images)
    if isinstance(edges, str):
        if edges not in PUBLISHED:
            raise InputError(f"no knockout is called {edges!r}; the nearest names are {nearest(edges, PUBLISHED)}")
        chosen, usual = PUBLISHED[edges]
        cuts, how = [chosen], how or usual
    else:
        cuts, how = [edges] if isinstance(edges, Edges) else list(edges), how or "zero"
    if how not in HOW:
        raise InputError(f"an edge is knocked out by one of {', '.join(HOW)}, not {how!r}")
    if not cuts:
        raise InputError("the list of edges is empty")
    cut = _cut_by_block(model, pictures, cuts, masks)
    if how == "renormalise":
        return [(f"blocks.{block}.attn.hook_attn_scores", _close(where, block)) for block, where in cut.items()]
    patterns = {} if how == "zero" else _patterns(model, pictures, how, others, list(cut))
    return [(f"blocks.{block}.attn.hook_pattern", _replace(where, patterns.get(block))) for block, where in cut.items()]


def knockout_attention(
    model: HookedViT,
    images: Pictures,
    edges: str | Edges | Sequence[Edges] = "self_only",
    how: str | None = None,
    *,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
) -> Result:
    """The logits with attention edges knocked out: arguments and errors as `knockout_hooks`.

    Returns:
        Result with axes image, class.

    Source: METHODS.md B1.
    """
    pictures = model.as_images(images)
    with torch.no_grad():
        hooks = knockout_hooks(model, pictures, edges, how, masks=masks, others=others)
        logits = model.run_with_hooks(pictures, fwd_hooks=hooks)
    return Result(
        logits,
        {"image": list(range(len(pictures))), "class": [model.class_label(i) for i in range(model.cfg.n_classes)]},
        "logit",
        settings={"model": model.cfg.model_name, "edges": str(edges), "how": how or "as published"},
    )


def _cut_by_block(
    model: HookedViT, pictures: Tensor, cuts: Sequence[Edges], masks: MaskInput | None
) -> dict[int, Bool[Tensor, "image head query key"]]:
    grid = model.embed.grid(*pictures.shape[-2:])
    found: dict[int, Tensor] = {}
    for edges in cuts:
        if edges.keys == "class" and not model.cfg.has_class_token:
            raise InputError(f"{model.cfg.model_name} has no class token whose attention could be knocked out")
        # A picture that is all object has no context to be blind to: nothing of it is cut.
        queries = token_mask(model, edges.queries, len(pictures), masks, grid, some_may_be_empty=True)
        keys = token_mask(model, edges.keys, len(pictures), masks, grid, some_may_be_empty=True)
        where = queries[:, None, :, None] & keys[:, None, None, :]
        if edges.except_self:
            where = where & ~torch.eye(where.shape[-1], dtype=torch.bool, device=where.device)
        n_heads = model.cfg.n_heads
        heads = torch.zeros(n_heads, dtype=torch.bool, device=where.device)
        for head in range(n_heads) if edges.heads is None else edges.heads:
            if not -n_heads <= head < n_heads:
                raise InputError(f"there is no head {head}: the model has heads 0 to {n_heads - 1}")
            heads[head] = True
        where = where & heads[None, :, None, None]
        for block in model.block_indices(edges.blocks):
            found[block] = found[block] | where if block in found else where
    return found


def _patterns(
    model: HookedViT, pictures: Tensor, how: str, others: Pictures | None, blocks: list[int]
) -> dict[int, Float[Tensor, "image head query key"]]:
    """What replaces the edges: patterns of other pictures, or their mean."""
    shown = model.as_partners(others, pictures) if how == "other" else pictures
    names = [f"blocks.{block}.attn.hook_pattern" for block in blocks]
    _, cache = model.run_with_cache(shown, names_filter=names)
    patterns = {block: cache[name] for block, name in zip(blocks, names, strict=True)}
    return patterns if how == "other" else {b: p.mean(dim=0, keepdim=True) for b, p in patterns.items()}


def _replace(where: Tensor, pattern: Tensor | None) -> Any:
    def edit(value: Tensor, hook: HookPoint) -> Tensor:
        return value.masked_fill(where, 0.0) if pattern is None else torch.where(where, pattern, value)

    return edit


def _close(where: Tensor, block: int) -> Any:
    if where.all(dim=-1).any():
        raise InputError(
            f'a query of block {block} would be left without any key, and cannot be renormalised: use how="zero", '
            "or leave it one"
        )

    def edit(scores: Tensor, hook: HookPoint) -> Tensor:
        # Differential attention has two maps of scores for each head.
        maps = where.repeat_interleave(scores.shape[1] // where.shape[1], dim=1)
        return scores.masked_fill(maps, float("-inf"))

    return edit
