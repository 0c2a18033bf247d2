"""Attention knockouts: cuts chosen edges of the attention pattern, or replaces their values (Methods B1)."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked
from vitlens.choose.classes import class_labels
from vitlens.choose.tokens import TokenSet, check_masks_are_used, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun, RunningMean
from vitlens.results.result import Result

EDGE_REPLACEMENTS = ("zero", "renormalise", "mean", "other")
#: Pictures whose edges are laid out together, to see whether a query would be left without a key.
CHECKED_AT_ONCE = 16


@dataclass(frozen=True)
class Edges:
    """Attention edges to cut: the queries that no longer see the keys, in these blocks and heads (one or several; None: all;
    -1 is the last).

    With `except_self` every token still attends to itself.
    """

    queries: TokenSet = "all"
    keys: TokenSet = "all"
    _: KW_ONLY
    blocks: int | Sequence[int] | None = None
    heads: int | Sequence[int] | None = None
    except_self: bool = False


@dataclass(frozen=True, repr=False)
class Knockout(Result):
    """`values` [image, class]: the logits of all classes with the edges cut."""


#: The two knockouts of the paper: what is cut, and what replaces it.
PUBLISHED = {
    "self_only": (Edges("patches", "all", except_self=True), "renormalise"),
    "no_cls": (Edges("patches", "class"), "zero"),
}


@leaves_state
@checked
def knockout_hooks(
    model: HookedViT,
    images: Pictures,
    *,
    edges: str | Edges | Sequence[Edges],
    replacement: str | None = None,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Hooks:
    """Makes hooks that cut attention edges, for `model.hooks(…)`, `run_with_hooks` or any analysis inside them.

    Args:
        images: the pictures of the run; only their number and size matter, except for replacement="mean".
        edges: "self_only" (every patch attends to itself only, with weight 1; the class token's row is untouched),
            "no_cls" (patches do not see the class token), or any `Edges`, one or several.
        replacement: "zero": set to 0 after the softmax, other weights unchanged (paper); "renormalise": −∞ before the
            softmax; "mean": the mean pattern over the pictures; "other": the pattern of `others`. By default "zero", and for
            "self_only" "renormalise", which gives the single remaining weight the value 1.
        masks: object masks, for edges between "object" and "context".
        others: one picture for each of `images`.
        batch_size: pictures of a forward, where patterns are read; by default 64, or fewer where these take much memory.
        progress: show a bar over these forwards; by default on a terminal only.

    Hooks for edges that differ between pictures (masks, "other") work only in runs on the same pictures in this order.

    Raises:
        InputError: an unknown name, block, head or token; no class token to cut; a query that would be left without a key;
            `others` that are missing or of another number; masks that no edges read.

    Source: Vilas, Schaumlöffel & Roig 2023, section 4; Methods B1.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> hooks = vitlens.removal.knockout_hooks(model, images[:2], edges="self_only")
        >>> with model.hooks(fwd_hooks=hooks):
        ...     lens = vitlens.class_lens(model, images[:2], labels[:2], tokens="class")
        >>> lens.probabilities[0, -1].shape
        torch.Size([2, 1, 1])
    """
    run = PictureRun(model, images, batch_size, progress, "patterns")
    cuts, replacement = _chosen_edges(edges, replacement)
    cut = _cut_by_block(model, run, cuts, masks)
    blocks = list(cut)
    patterns: dict[int, Tensor] = {}
    partners = run.partners(others, replacement)
    if replacement == "mean":
        patterns = _mean_patterns(model, run, blocks)
    elif replacement == "other":
        parts = [_patterns(model, model.as_partners(partners[places], pictures), blocks) for places, pictures in run]
        patterns = {block: torch.cat([part[block] for part in parts]) for block in blocks}
    return _hooks(cut, replacement, patterns)


@leaves_state
@checked
def knockout_attention(
    model: HookedViT,
    images: Pictures,
    *,
    edges: str | Edges | Sequence[Edges] = "self_only",
    replacement: str | None = None,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Knockout:
    """The logits of a run with attention edges cut; arguments and errors as `knockout_hooks`.

    Args:
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        Knockout with axes image, class.

    Source: Methods B1.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> blind = vitlens.knockout_attention(model, images[:4], edges="no_cls")
        >>> blind.values.shape  # the logits [image, class] when patches do not see the class token
        torch.Size([4, 10])
    """
    model.require_classifier()
    run = PictureRun(model, images, batch_size, progress, "knockout")
    cuts, chosen = _chosen_edges(edges, replacement)
    cut = _cut_by_block(model, run, cuts, masks)
    partners = run.partners(others, chosen)
    patterns = _mean_patterns(model, run, list(cut)) if chosen == "mean" else {}
    logits = []
    for places, pictures in run:
        if partners is not None:
            patterns = _patterns(model, model.as_partners(partners[places], pictures), list(cut))
        hooks = _hooks({block: where.of(places) for block, where in cut.items()}, chosen, patterns)
        with torch.no_grad():
            logits.append(model.run_with_hooks(pictures, fwd_hooks=hooks))
    every = torch.cat(logits)
    return Knockout(
        every,
        {"image": run.images, "class": class_labels(model, range(model.cfg.n_classes))},
        "logit",
        classes=torch.arange(every.shape[1]).expand_as(every),
        class_names=model.class_names,
        pixels=run.pixels,
        settings={
            "model": model.cfg.model_name,
            "output": model.cfg.output,
            "edges": str(edges),
            "replacement": replacement or "as published",
        },
    )


@dataclass(frozen=True)
class _Part:
    """The edges of one `Edges`. Queries and keys have a single row if they are the same for all pictures."""

    queries: Bool[Tensor, "#image query"]
    keys: Bool[Tensor, "#image key"]
    heads: Bool[Tensor, "head"]
    except_self: bool

    def of(self, places: slice) -> "_Part":
        queries, keys = (side if len(side) == 1 else side[places] for side in (self.queries, self.keys))
        return _Part(queries, keys, self.heads, self.except_self)

    def edges(self) -> Bool[Tensor, "#image head query key"]:
        where = self.queries[:, None, :, None] & self.keys[:, None, None, :]
        if self.except_self:
            where = where & ~torch.eye(where.shape[-1], dtype=torch.bool, device=where.device)
        return where & self.heads[None, :, None, None]


@dataclass(frozen=True)
class _Cut:
    """The edges of one block that are cut; their mask is built when the block runs, and not kept."""

    parts: list[_Part]
    n_images: int

    def of(self, places: slice) -> "_Cut":
        """Those of some of the pictures."""
        return _Cut([part.of(places) for part in self.parts], len(range(*places.indices(self.n_images))))

    def edges(self, n_images: int) -> Bool[Tensor, "#image head query key"]:
        """Those of a run.

        Raises:
            InputError: the run has other pictures.
        """
        found = self.parts[0].edges()
        for part in self.parts[1:]:
            found = found | part.edges()
        if len(found) not in (1, n_images):
            raise _other_batch(self.n_images, n_images)
        return found


def _other_batch(made_for: int, n_images: int) -> InputError:
    return InputError(
        f"these knockout hooks are for {made_for} pictures, and the run has {n_images}: make them for the pictures of each "
        f"run, or let the analysis run all at once with batch_size={made_for}"
    )


def _chosen_edges(edges: str | Edges | Sequence[Edges], replacement: str | None) -> tuple[list[Edges], str]:
    """The edges to cut, and their replacement."""
    usual = "zero"
    if isinstance(edges, str):
        if edges not in PUBLISHED:
            raise InputError(f"no knockout is called {edges!r}; the nearest names are {nearest(edges, PUBLISHED)}")
        published, usual = PUBLISHED[edges]
        cuts = [published]
    elif isinstance(edges, Edges):
        cuts = [edges]
    else:
        cuts = list(edges) if isinstance(edges, (list, tuple)) else []
    if not isinstance(edges, (str, Edges, list, tuple)) or not all(isinstance(item, Edges) for item in cuts):
        raise InputError(
            f"edges are {', '.join(PUBLISHED)}, an Edges(queries, keys, …) or a list of them, not {edges!r}"
        )
    if not cuts:
        raise InputError("the list of edges is empty")
    chosen = usual if replacement is None else replacement
    if chosen not in EDGE_REPLACEMENTS:
        raise InputError(f"the replacement of an edge is one of {', '.join(EDGE_REPLACEMENTS)}, not {replacement!r}")
    return cuts, chosen


def _cut_by_block(model: HookedViT, run: PictureRun, cuts: Sequence[Edges], masks: MaskInput | None) -> dict[int, _Cut]:
    check_masks_are_used(masks, [side for edges in cuts for side in (edges.queries, edges.keys)])
    found: dict[int, _Cut] = {}
    for edges in cuts:
        if not isinstance(edges.except_self, bool):
            raise InputError(f"except_self is True or False, not {edges.except_self!r}")
        if isinstance(edges.keys, str) and edges.keys == "class" and not model.cfg.has_class_token:
            raise InputError(f"{model.cfg.model_name} has no class token whose attention could be knocked out")
        # A picture may have no such token (one that is all object has no context): nothing is cut in it.
        queries, keys = (
            select_tokens(model, tokens, run.n, masks=masks, grid=run.grid, some_may_be_empty=True)
            for tokens in (edges.queries, edges.keys)
        )
        heads = _chosen_heads(model, edges.heads)
        part = _Part(_one_row(queries), _one_row(keys), heads, edges.except_self)
        for block in model.block_indices(edges.blocks):
            found[block] = _Cut([*(found[block].parts if block in found else []), part], run.n)
    return found


def _one_row(tokens: Bool[Tensor, "image token"]) -> Bool[Tensor, "#image token"]:
    """The same for every picture, where it is."""
    return tokens[:1] if bool((tokens == tokens[:1]).all()) else tokens


def _chosen_heads(model: HookedViT, heads: int | Sequence[int] | None) -> Bool[Tensor, "head"]:
    n_heads = model.cfg.n_heads
    chosen = torch.zeros(n_heads, dtype=torch.bool, device=model.device)
    wanted = [heads] if isinstance(heads, (int, np.integer)) else range(n_heads) if heads is None else heads
    if not isinstance(wanted, (Sequence, Tensor, np.ndarray)) or isinstance(wanted, str):
        raise InputError(f"heads are numbers from 0 to {n_heads - 1}, one or a list of them, not {heads!r}")
    for head in wanted:
        if isinstance(head, (bool, np.bool_)) or not isinstance(head, (int, np.integer)):
            raise InputError(f"heads are numbers from 0 to {n_heads - 1}, one or a list of them, not {head!r}")
        if not -n_heads <= head < n_heads:
            raise InputError(f"there is no head {head}: the model has heads 0 to {n_heads - 1}")
        chosen[int(head)] = True
    if not chosen.any():
        raise InputError("the list of heads is empty: name at least one, or pass None for all")
    return chosen


def _patterns(
    model: HookedViT, pictures: Float[Tensor, "image channels height width"], blocks: Sequence[int]
) -> dict[int, Float[Tensor, "image head query key"]]:
    names = [hook_name(block, "attn.pattern") for block in blocks]
    with torch.no_grad():
        _, cache = model.run_with_cache(pictures, names_filter=names)
    return {block: cache[name] for block, name in zip(blocks, names, strict=True)}


def _mean_patterns(
    model: HookedViT, run: PictureRun, blocks: Sequence[int]
) -> dict[int, Float[Tensor, "1 head query key"]]:
    """The mean pattern over all pictures."""
    mean = RunningMean()
    for _, pictures in run:
        for block, pattern in _patterns(model, pictures, blocks).items():
            mean.add(str(block), pattern)
    return {block: mean.of(str(block)) for block in blocks}


def _hooks(
    cut: dict[int, _Cut], replacement: str, patterns: dict[int, Float[Tensor, "#image head query key"]]
) -> Hooks:
    if replacement == "renormalise":
        return [(hook_name(block, "attn.attn_scores"), _close(where, block)) for block, where in cut.items()]
    return [(hook_name(block, "attn.pattern"), _replace(where, patterns.get(block))) for block, where in cut.items()]


def _replace(cut: _Cut, pattern: Float[Tensor, "#image head query key"] | None) -> Any:
    def edit(value: Tensor, hook: HookPoint) -> Tensor:
        where = cut.edges(len(value))
        if pattern is None:
            return value.masked_fill(where, 0.0)
        if len(pattern) not in (1, len(value)):
            raise _other_batch(len(pattern), len(value))
        return torch.where(where, pattern, value)

    return edit


def _close(cut: _Cut, block: int) -> Any:
    places = [slice(start, start + CHECKED_AT_ONCE) for start in range(0, cut.n_images, CHECKED_AT_ONCE)]
    if any(bool(some.edges(some.n_images).all(dim=-1).any()) for some in map(cut.of, places)):
        raise InputError(
            f'a query of block {block} would be left without any key, and cannot be renormalised: use replacement="zero", '
            "or leave it one"
        )

    def edit(scores: Tensor, hook: HookPoint) -> Tensor:
        # Differential attention has two maps of scores for each head.
        where = cut.edges(len(scores))
        maps = where.repeat_interleave(scores.shape[1] // where.shape[1], dim=1)
        return scores.masked_fill(maps, float("-inf"))

    return edit
