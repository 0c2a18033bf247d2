"""Activation patching: activations of one picture put into the run on another, cell by cell (METHODS.md B3)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm
from transformer_lens.hook_points import HookPoint

from vitlens.analysis.classes import Classes
from vitlens.analysis.metrics import Metric, class_metric
from vitlens.analysis.results import Result
from vitlens.analysis.tokens import TokenSet, token_mask
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT

TOKEN_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEAD_SITES = ("z", "q", "k", "v", "pattern")


@dataclass(frozen=True, repr=False)
class Patching(Result):
    """The effect of patching each (block, token set) or (block, head), picture by picture.

    `patched` [block, token or head, image] is the metric of the patched run; `target` and `source` [image] that of the
    run that was patched into and of the one the activations came from. `values` is the effect: how far the metric moved
    from target (0) to source (1). Denoising patches clean activations into the corrupted run, noising the reverse.
    """

    patched: Float[Tensor, "block unit image"]
    target: Float[Tensor, "image"]
    source: Float[Tensor, "image"]
    grid: tuple[int, int] | list[int]
    metric_name: str

    def columns(self) -> dict[str, Tensor]:
        return {"effect": self.values, "metric": self.patched}

    def effect(self) -> Float[Tensor, "block unit"]:
        """The effect over all pictures: the mean shift of the metric over the mean gap, so that a picture with a tiny
        gap does not drown the others."""
        shift = (self.patched - self.target).mean(dim=-1)
        return shift / (self.source - self.target).mean()

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(labels)}" for name, labels in self.axes.items())
        low, high = (x.item() for x in torch.aminmax(self.effect()))
        return f"Patching({self.settings['site']}, {self.metric_name} [{axes}], effect {low:.3g} to {high:.3g})"

    def maps(self) -> Float[Tensor, "block rows columns"]:
        """The effect of single patches on the picture's grid.

        Raises:
            InputError: the sweep did not patch every patch by itself.
        """
        labels = self.axes.get("tokens", [])
        patches = [i for i, label in enumerate(labels) if label.startswith("(")]
        if len(patches) != self.grid[0] * self.grid[1]:
            raise InputError('a map needs every patch by itself: run activation_patching with tokens="each"')
        return self.effect()[:, patches].unflatten(-1, tuple(self.grid))


def activation_patching(
    model: HookedViT,
    clean: Pictures,
    corrupted: Pictures,
    metric: str | Metric = "logit_difference",
    site: str = "resid_pre",
    *,
    tokens: TokenSet | Mapping[str, TokenSet] | Sequence[TokenSet] = "each",
    blocks: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    direction: str = "denoise",
    classes: Classes = None,
    baseline_classes: Classes = None,
    masks: Tensor | np.ndarray | None = None,
    batch_size: int = 32,
    progress: bool = True,
) -> Patching:
    """Patches a site, one (block, token set) or (block, head) at a time, and reports how far the metric moves.

    Equal to running the whole network once per cell; but the blocks before the patch are run once, and the cells of a
    block share forwards of `batch_size` rows.

    Args:
        clean, corrupted: equally many pictures, pair by pair; tensors, or anything `model.to_images` reads.
        metric: "logit_difference", "logit", "probability" (of `classes`, by default the clean prediction, against
            `baseline_classes`, by default the corrupted prediction, or the runner-up where that is the same), or a
            function of the logits [image, classes] that returns [image] or a single number.
        site: "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out" by token set;
            "z", "q", "k", "v", "pattern" by head.
        tokens: "each" token by itself; one token set; a list of them; or a mapping from names to them. For head sites
            the tokens at which the head is patched (rows of the pattern), all by default.
        blocks, heads: by default all.
        direction: "denoise": clean into corrupted; "noise": corrupted into clean.
        masks: object masks at the pictures' size, bool [image, height, width], for the token sets "object" and "context".
        batch_size: rows per forward: as many cells as fit, each with all pictures.

    Returns:
        Patching with axes block, tokens (or head), image.

    Raises:
        InputError: pairs of different shape, an unknown site or direction, an empty token set, a metric that returns the
            wrong shape or NaN.

    Source: METHODS.md B3; Vig et al. 2020; Meng et al. 2022.
    """
    if site not in TOKEN_SITES + HEAD_SITES:
        near = nearest(site, TOKEN_SITES + HEAD_SITES)
        raise InputError(f"no patching site is called {site!r}; the nearest names are {near}")
    if direction not in ("denoise", "noise"):
        raise InputError(f'direction is "denoise" or "noise", not {direction!r}')
    if batch_size < 1:
        raise InputError(f"batch_size is at least 1, not {batch_size}")
    model.require_classifier()
    clean_pictures, corrupted_pictures = model.as_images(clean), model.as_images(corrupted)
    if clean_pictures.shape != corrupted_pictures.shape:
        raise InputError(
            f"clean and corrupted pictures must pair up: {list(clean_pictures.shape)} against "
            f"{list(corrupted_pictures.shape)}"
        )
    chosen_blocks = model.block_indices(blocks)
    grid = model.embed.grid(*clean_pictures.shape[-2:])
    n_images = len(clean_pictures)
    if site in HEAD_SITES:
        if heads is None:
            heads = range(model.cfg.n_heads)
        labels, cells = _head_cells(model, site, tokens, heads, n_images, masks, grid)
    else:
        if heads is not None:
            raise InputError(f"{site} has no heads: patch {', '.join(HEAD_SITES)} by head")
        labels, cells = _token_cells(model, tokens, n_images, masks, grid)

    with torch.no_grad():
        clean_logits, corrupted_logits = model(clean_pictures), model(corrupted_pictures)
        if isinstance(metric, str):
            measure: Metric = class_metric(model, metric, clean_logits, corrupted_logits, classes, baseline_classes)
        else:
            measure = metric
        runs = [(clean_pictures, clean_logits), (corrupted_pictures, corrupted_logits)]
        (source, source_logits), (target, target_logits) = runs if direction == "denoise" else runs[::-1]
        source_metric, target_metric = _measure(measure, source_logits), _measure(measure, target_logits)
        if torch.equal(source_metric, target_metric):
            raise InputError(
                "the metric is the same on the clean and the corrupted pictures, so there is no effect to trace"
            )
        patched = source_metric.new_empty(len(chosen_blocks), len(labels), n_images)
        with tqdm(
            total=len(chosen_blocks) * len(labels), desc=f"patching {site}", unit="cell", disable=not progress
        ) as bar:
            for position, chosen, logits in _sweep(model, site, chosen_blocks, source, target, grid, cells, batch_size):
                patched[position, chosen] = torch.stack([_measure(measure, cell) for cell in logits])
                bar.update(len(logits))
    return Patching(
        values=(patched - target_metric) / (source_metric - target_metric),
        axes={
            "block": chosen_blocks,
            "head" if site in HEAD_SITES else "tokens": labels,
            "image": list(range(n_images)),
        },
        quantity="effect",
        patched=patched,
        target=target_metric,
        source=source_metric,
        grid=grid,
        metric_name=metric if isinstance(metric, str) else getattr(metric, "__name__", "custom metric"),
        settings={"model": model.cfg.model_name, "site": site, "direction": direction},
    )


def _token_cells(
    model: HookedViT,
    tokens: TokenSet | Mapping[str, TokenSet] | Sequence[TokenSet],
    n_images: int,
    masks: Tensor | np.ndarray | None,
    grid: tuple[int, int],
) -> tuple[list[str], Bool[Tensor, "cell image tokens"]]:
    """Labels and masks of the token sets to patch."""
    n_tokens = model.cfg.n_prefix_tokens + grid[0] * grid[1]
    sets: dict[str, Any]
    if isinstance(tokens, str) and tokens == "each":
        sets = {model.cfg.token_label(token, grid): token for token in range(n_tokens)}
    elif isinstance(tokens, Mapping):
        sets = dict(tokens)
    elif isinstance(tokens, (str, int, Tensor)) or not isinstance(tokens, Iterable):
        sets = {str(tokens) if not isinstance(tokens, Tensor) else "tokens": tokens}
    else:
        sets = {
            model.cfg.token_label(item, grid) if isinstance(item, int) and item >= 0 else str(item): item
            for item in tokens
        }
    if not sets:
        raise InputError('there is no token set to patch: name at least one, or pass "each"')
    cells = torch.stack([token_mask(model, item, n_images, masks, grid) for item in sets.values()])
    return list(sets), cells


def _head_cells(
    model: HookedViT,
    site: str,
    tokens: Any,
    heads: Sequence[int],
    n_images: int,
    masks: Tensor | np.ndarray | None,
    grid: tuple[int, int],
) -> tuple[list[str], Bool[Tensor, "cell image ..."]]:
    """Masks [cell, image, tokens, heads] (pattern: [cell, image, heads, query tokens]), one cell per head."""
    for head in heads:
        if not 0 <= head < model.cfg.n_heads:
            raise InputError(f"there is no head {head}: a block has heads 0 to {model.cfg.n_heads - 1}")
    if not heads:
        raise InputError("the list of heads is empty")
    everywhere = isinstance(tokens, str) and tokens == "each"
    at = token_mask(model, "all" if everywhere else tokens, n_images, masks, grid)
    one_hot = torch.eye(model.cfg.n_heads, dtype=torch.bool, device=at.device)[list(heads)]
    cells = one_hot[:, None, None, :] & at[None, :, :, None]
    if site == "pattern":
        cells = rearrange(cells, "cell image token head -> cell image head token")
    return [f"H{head}" for head in heads], cells


@torch.no_grad()
def _sweep(
    model: HookedViT,
    site: str,
    blocks: list[int],
    source: Tensor,
    target: Tensor,
    grid: tuple[int, int],
    cells: Bool[Tensor, "cell image ..."],
    batch_size: int,
) -> Iterator[tuple[int, slice, Float[Tensor, "cell image classes"]]]:
    """Yields position of the block, cells, and the logits of their patched runs.

    A run on the target starts at the patched block; as many cells as `batch_size` allows share a forward.
    """
    hook_name = f"attn.hook_{site}" if site in HEAD_SITES else f"hook_{site}"
    sites = [f"blocks.{block}.{hook_name}" for block in blocks]
    streams = [f"blocks.{block}.hook_resid_pre" for block in blocks]
    _, source_cache = model.run_with_cache(source, names_filter=sites)
    _, target_cache = model.run_with_cache(target, names_filter=streams)
    cells_per_forward = max(1, batch_size // len(source))
    for position, (name, stream, block) in enumerate(zip(sites, streams, blocks, strict=True)):
        for first in range(0, len(cells), cells_per_forward):
            chosen = slice(first, first + cells_per_forward)
            logits = _patched_run(model, name, block, grid, target_cache[stream], source_cache[name], cells[chosen])
            yield position, chosen, logits


def _patched_run(
    model: HookedViT,
    name: str,
    block: int,
    grid: tuple[int, int],
    stream: Float[Tensor, "image tokens d"],
    source: Float[Tensor, "image ..."],
    masks: Bool[Tensor, "cell image ..."],
) -> Float[Tensor, "cell image classes"]:
    """One forward from `block` on, the rows of which are cells × pictures."""
    n_cells = len(masks)
    inside = rearrange(masks, "c i ... -> (c i) ...")[..., None]
    replacement = repeat(source, "i ... -> (c i) ...", c=n_cells)

    def patch(activation: Tensor, hook: HookPoint) -> Tensor:
        return torch.where(inside, replacement, activation)

    start = repeat(stream, "i ... -> (c i) ...", c=n_cells)
    logits = model.run_with_hooks(start, start_at_layer=block, grid=grid, fwd_hooks=[(name, patch)])
    return rearrange(logits, "(c i) k -> c i k", c=n_cells)


def _measure(metric: Metric, logits: Float[Tensor, "image classes"]) -> Float[Tensor, "image"]:
    """The metric of one cell's logits, checked."""
    value = torch.as_tensor(metric(logits), dtype=logits.dtype, device=logits.device)
    n_images = len(logits)
    if value.ndim == 0:
        value = value.expand(n_images)
    if tuple(value.shape) != (n_images,):
        raise InputError(
            f"the metric returned {list(value.shape)} for logits {list(logits.shape)}: "
            "it must return one number, or one per picture"
        )
    if value.isnan().any():
        raise InputError("the metric returned NaN")
    return value
