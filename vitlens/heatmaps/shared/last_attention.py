"""The last attention before the classifier: its rows that are read, and the class's integrated gradient at them."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.heatmaps.shared.reading import read_weights
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, Reader, hook_name
from vitlens.model.parts.pooling import AttentionPool
from vitlens.model.runs.gradients import gradients_enabled, gradients_of
from vitlens.model.runs.suffix import forward_suffix, last_block_is_watched

PATHS = ("pictures", "attention")


def reads_by_attention(model: HookedViT) -> bool:
    """Whether the last attention is the pool's own: one row, of a learned query that is no token."""
    return isinstance(model.pool, AttentionPool)


def last_pattern_name(model: HookedViT) -> str:
    """The hook point of the last pattern."""
    return "pool.hook_pattern" if reads_by_attention(model) else hook_name(model.cfg.n_layers - 1, "attn.pattern")


def run_and_read(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    readers: Iterable[tuple[str, Callable[[Tensor], None]]],
) -> Float[Tensor, "image token d"]:
    """The last stream of a run of the pictures, in which each reader saw the activation named."""
    last: list[Tensor] = []

    def hook(read: Callable[[Tensor], None]) -> Reader:
        def pass_on(activation: Tensor, hook: HookPoint) -> None:
            read(activation)

        return Reader(pass_on)

    end = hook_name(model.cfg.n_layers - 1, "resid_post")
    hooks: Hooks = [(name, hook(read)) for name, read in [*readers, (end, last.append)]]
    with torch.no_grad():
        model.run_with_hooks(images, return_type="features", fwd_hooks=hooks)
    return last[0]


def rows_that_are_read(
    model: HookedViT, maps: Float[Tensor, "image *head query key"], n_tokens: int
) -> Float[Tensor, "image *head row token"]:
    """Of a map of the last attention, the rows of the tokens that the classifier reads; of the pool's own, its row."""
    if reads_by_attention(model):
        rows = maps.new_zeros(*maps.shape[:-1], n_tokens)
        rows[..., model.pool.tokens] = maps
        return rows
    return maps[..., _read_tokens(model, n_tokens), :]


def weights_of_rows(model: HookedViT, last: Float[Tensor, "image token d"]) -> Float[Tensor, "image row"]:
    """How much each of these rows counts (`read_weights`); the pool's own row counts 1."""
    if reads_by_attention(model):
        return last.new_ones(len(last), 1)
    return read_weights(model, last)[:, _read_tokens(model, last.shape[1])]


def follow_rows(
    rows: Float[Tensor, "image row token"], matrices: Sequence[Float[Tensor, "image token key"]]
) -> Float[Tensor, "image row key"]:
    """rows (I + M_n) ⋯ (I + M_1): nothing but these rows is followed, so one row costs no product of whole matrices."""
    for matrix in reversed(matrices):
        rows = rows + rows @ matrix
    return rows


def integrated_feedback(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    n_steps: int,
    along: str,
    batch_size: int | None,
) -> Float[Tensor, "image row token"]:
    """F = E_h[(∫₀¹ ∂y_c(α)/∂A dα)⁺] at the rows of the last attention A that are read, y_c the class's logit.

    Along "pictures" the run at α is that of the picture α x; along "attention" that of the picture itself with α A in
    place of A. By the midpoint rule. What stands before A needs no gradient and, along "attention", runs but once.

    Args:
        batch_size: rows, pictures × steps, of one forward; by default at most 64, and what is free holds.

    Raises:
        InputError: an unknown way (`along`), fewer than one step.
    """
    if along not in PATHS:
        raise InputError(f"the integral goes along one of {', '.join(PATHS)}, not {along!r}")
    if n_steps < 1:
        raise InputError(f"the integral takes at least one step, not {n_steps}")
    model.require_classifier()
    levels = (torch.arange(n_steps, device=images.device, dtype=images.dtype) + 0.5) / n_steps
    rows = rows_at_once(model, images, batch_size, gradients=False)
    n_pictures = max(1, rows // n_steps)
    found = []
    for pictures, chosen in zip(images.split(n_pictures), classes.split(n_pictures), strict=True):
        runs = partial(_scaled_pictures if along == "pictures" else _scaled_attention, model, pictures, chosen)
        total = sum(runs(part) for part in levels.split(rows))
        assert isinstance(total, Tensor)
        found.append((total / n_steps).clamp(min=0).mean(dim=1))
    return torch.cat(found)


def _scaled_pictures(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    levels: Float[Tensor, "step"],
) -> Float[Tensor, "image head row token"]:
    scaled = rearrange(levels[:, None, None, None, None] * pictures, "s b c h w -> (s b) c h w")
    with torch.no_grad():
        streams = model(scaled, stop_at_layer=_last_start(model))
    gradient = _gradient(model, streams, classes.repeat(len(levels)), pictures, None)
    return rearrange(gradient, "(s b) h q k -> s b h q k", s=len(levels)).sum(dim=0)


def _scaled_attention(
    model: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    levels: Float[Tensor, "step"],
) -> Float[Tensor, "image head row token"]:
    with torch.no_grad():
        stream = model(pictures, stop_at_layer=_last_start(model))
    streams = repeat(stream, "b t d -> (s b) t d", s=len(levels))
    scales = levels.to(stream.dtype).repeat_interleave(len(pictures))
    gradient = _gradient(model, streams, classes.repeat(len(levels)), pictures, scales)
    return rearrange(gradient, "(s b) h q k -> s b h q k", s=len(levels)).sum(dim=0)


def _gradient(
    model: HookedViT,
    streams: Float[Tensor, "run token d"],
    classes: Int[Tensor, "run"],
    pictures: Float[Tensor, "image channels height width"],
    scales: Float[Tensor, "run"] | None,
) -> Float[Tensor, "run head row token"]:
    """∂y_c/∂A of every run from the stream that enters the last attention's part, its pattern scaled."""
    leaves: list[Tensor] = []

    def cut(pattern: Tensor, hook: HookPoint) -> Tensor:
        scaled = pattern if scales is None else pattern * scales[:, None, None, None]
        leaves.append(scaled.detach().requires_grad_())
        return leaves[0]

    grid = model.embed.grid(*pictures.shape[-2:])
    whole = last_block_is_watched(model)
    with gradients_enabled():
        with model.hooks(fwd_hooks=[(last_pattern_name(model), cut)]):
            logits = forward_suffix(model, streams, _last_start(model), grid, whole=whole)
        (gradient,) = gradients_of(logits.gather(1, classes[:, None]), leaves)
    return rows_that_are_read(model, gradient, streams.shape[1])


def _last_start(model: HookedViT) -> int:
    """The block that has the last attention; the number of blocks, where the pool has it."""
    return model.cfg.n_layers - (0 if reads_by_attention(model) else 1)


def _read_tokens(model: HookedViT, n_tokens: int) -> slice:
    """From the first token that is read to the last: of a distilled model, the tokens of both classifiers."""
    pools = [pool for pool in (model.pool, model.pool_dist) if pool is not None]
    read = [token for pool in pools for token in range(n_tokens)[pool.tokens]]
    return slice(min(read), max(read) + 1)
