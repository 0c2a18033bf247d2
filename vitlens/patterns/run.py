"""Reads how much heads attend to each token, from the patterns of one forward."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked, index_of, items, short
from vitlens.choose.tokens import TokenSet, check_masks_are_used, queries_in_words, select_tokens
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import read_head
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, Reader, hook_name
from vitlens.model.parts.pooling import AttentionPool
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.patterns.maps import AttentionMaps
from vitlens.results.axes import ComponentLabel, head_label

POOL = "pool H"
Heads = str | tuple[int, int] | Sequence[str | tuple[int, int]]


@leaves_state
@checked
def attention(
    model: HookedViT,
    images: Pictures,
    *,
    head: Heads | None = None,
    block: int | None = None,
    queries: TokenSet | None = None,
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> AttentionMaps:
    """How much heads attend to each token: by default what the class token attends to.

    Of each head the mean over the queries, mean_q A[q, token], with A the pattern that multiplies the values. `.plot()`
    shows it over a picture, `.maps()` gives it on the grid of patches, `.prefix()` for the other tokens.

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        head: a head by name ("L9H0"), as (block, head), or a list of them; "pool H0" is a head of attention pooling.
        block: all heads of this block; -1 is the last. Without `head` and `block`: all heads of the last attention, which
            is the pool's own in models with attention pooling.
        queries: whose attention: a token set, such as "class", `vitlens.choose.patch(3, 4)` or "object", over which the
            mean is taken. By default the class token; in a model without one, all tokens that its classifier pools.
        masks: object masks, for token sets that need them.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        AttentionMaps with axes image, head, token: shares between 0 and 1 that sum to 1 over the tokens (differential
        attention may be negative).

    Raises:
        InputError: a head, block or token that does not exist; both `head` and `block`; `queries` for a pool, whose query is
            learned.

    Source: Dosovitskiy et al. 2021; Caron et al. 2021 (DINO) draw the class token's row of the last block.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> maps = vitlens.attention(model, images[:2], head="L3H1")
        >>> maps.axes["head"], maps.maps().shape
        (['L3H1'], torch.Size([2, 1, 14, 14]))
        >>> vitlens.attention(model, images[:2], block=-1).axes["head"]
        ['L5H0', 'L5H1', 'L5H2', 'L5H3']
        >>> maps.plot().layout.title.text
        'What the class token attends to in head L3H1'
    """
    run = PictureRun(model, images, batch_size, progress, "attention")
    labels = _heads(model, head, block)
    of_pool = labels[0].block is None
    if of_pool and queries is not None:
        raise InputError("the query of an attention pool is learned: leave queries= out, or name heads of a block")
    chosen = _queries(model, queries, run, masks)
    weights = chosen.to(model.dtype) / chosen.sum(dim=1, keepdim=True)
    parts: list[Tensor] = []
    for where, pictures in run:
        with torch.no_grad():
            parts.append(
                _pool_rows(model, pictures, labels, chosen.shape[1])
                if of_pool
                else _block_rows(model, pictures, labels, weights[where])
            )
    return AttentionMaps(
        torch.cat(parts),
        {"image": run.images, "head": labels, "token": model.cfg.token_labels(run.grid)},
        "attention",
        queries=torch.zeros_like(chosen) if of_pool else chosen,
        grid=run.grid,
        n_prefix_tokens=model.cfg.n_prefix_tokens,
        pixels=run.pixels,
        settings={"model": model.cfg.model_name, "queries": _named(model, queries, run.grid, of_pool)},
    )


def _heads(model: HookedViT, head: Any, block: int | None) -> list[ComponentLabel]:
    """The heads that are meant: of blocks, or of the pool.

    Raises:
        InputError: both a head and a block, no heads, one that does not exist, heads of blocks and of the pool.
    """
    if head is not None and block is not None:
        raise InputError('head names heads with their blocks, such as "L9H0": leave block= out, or head=')
    n_of_pool = model.pool.n_heads if isinstance(model.pool, AttentionPool) else 0
    if head is None and block is None and n_of_pool:
        return [_pool_head(number) for number in range(n_of_pool)]
    if head is None:
        index = model.block_index(-1 if block is None else block)
        return [head_label(index, number) for number in range(model.blocks[index].attn.n_heads)]
    several = [head] if isinstance(head, tuple) and read_head(head) is not None else items(head)
    labels = list(dict.fromkeys(_head(model, one, n_of_pool) for one in several))
    if not labels:
        raise InputError("the list of heads is empty")
    if len({label.block is None for label in labels}) > 1:
        raise InputError("heads of blocks and of the pool have different queries: read them in two calls")
    return labels


def _head(model: HookedViT, name: Any, n_of_pool: int) -> ComponentLabel:
    if isinstance(name, str) and name.startswith(POOL) and name.removeprefix(POOL).isdecimal():
        if not n_of_pool:
            raise InputError(f"{model.cfg.model_name} has no attention pool, so no head {name!r}")
        return _pool_head(index_of(int(name.removeprefix(POOL)), n_of_pool, "head", "the pool"))
    found = read_head(name)
    if found is None:
        raise InputError(f'head is a name such as "L9H0", (block, head), or a list of them, not {short(name)}')
    index = model.block_index(found[0])
    return head_label(index, index_of(found[1], model.blocks[index].attn.n_heads, "head"))


def _pool_head(number: int) -> ComponentLabel:
    return ComponentLabel(f"{POOL}{number}", "head", None, number)


def _queries(
    model: HookedViT, queries: TokenSet | None, run: PictureRun, masks: MaskInput | None
) -> Bool[Tensor, "image token"]:
    check_masks_are_used(masks, [queries])
    if queries is not None:
        return select_tokens(model, queries, run.n, masks=masks, grid=run.grid)
    if model.cfg.has_class_token:
        return select_tokens(model, "class", run.n, grid=run.grid)
    chosen = select_tokens(model, "all", run.n, grid=run.grid)
    pooled = torch.zeros_like(chosen)
    pooled[:, model.read_tokens] = True
    return pooled


def _named(model: HookedViT, queries: TokenSet | None, grid: tuple[int, int], of_pool: bool) -> str:
    """What the queries are called in titles and tables."""
    if of_pool:
        return "the pool's learned query"
    if queries is None and not model.cfg.has_class_token:
        return "the pooled tokens (mean)"
    return queries_in_words(model, "class" if queries is None else queries, grid)


def _block_rows(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    labels: Sequence[ComponentLabel],
    weights: Float[Tensor, "image query"],
) -> Float[Tensor, "image head token"]:
    """Of each head the mean row of its pattern."""
    places = [(label.block or 0, label.head) for label in labels]
    blocks = {hook_name(block, "attn.pattern"): block for block, _ in places}
    means: dict[int, Float[Tensor, "image head token"]] = {}

    def read(pattern: Float[Tensor, "image head query key"], hook: HookPoint) -> None:
        means[blocks[str(hook.name)]] = einsum(pattern, weights.to(pattern.dtype), "i h q k, i q -> i h k")

    hooks: Hooks = [(name, Reader(read)) for name in blocks]
    model.run_with_hooks(pictures, fwd_hooks=hooks, stop_at_layer=1 + max(blocks.values()))
    return torch.stack([means[block][:, head] for block, head in places], dim=1)


def _pool_rows(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    labels: Sequence[ComponentLabel],
    n_tokens: int,
) -> Float[Tensor, "image head token"]:
    """Of each head of the pool its only row; tokens that the pool does not read have attention 0."""
    found: list[Tensor] = []

    def read(pattern: Float[Tensor, "image head 1 read"], hook: HookPoint) -> None:
        found.append(pattern[:, [label.head for label in labels], 0])

    model.run_with_hooks(pictures, return_type="features", fwd_hooks=[("pool.hook_pattern", Reader(read))])
    rows = found[0].new_zeros(*found[0].shape[:2], n_tokens)
    rows[..., model.read_tokens] = found[0]
    return rows
