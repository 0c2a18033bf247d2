"""Runs a sweep: one patched run for each cell, with the computation before the patch shared."""

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import psutil
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.choose.metrics import Measures
from vitlens.choose.sites import EDGE_SITES, Cells, Site, TokenSets, find_site, make_cells
from vitlens.choose.tokens import TokenSet
from vitlens.data.masks import MaskInput
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.suffix import forward_suffix, last_block_is_watched
from vitlens.patching.sources import ActivationTable, Source

#: Rows of a forward on a CPU if batch_size is not given: at least 4, which the matrix products need to be
#: efficient, and more while the activations stay near the caches. On a GPU they may take a quarter of what is free.
CPU_ROWS, CPU_BYTES = 4, 16 * 2**20
PICTURES_PER_CHUNK = 32


@dataclass(frozen=True)
class Plan:
    """What a sweep goes over: cells of one or several sites, in some blocks."""

    sites: list[Cells]
    blocks: list[int]
    grid: tuple[int, int]
    several_sites: bool

    @classmethod
    def make(
        cls,
        model: HookedViT,
        images: Float[Tensor, "image channels height width"],
        sites: str | Sequence[str],
        blocks: int | Sequence[int] | None = None,
        *,
        tokens: TokenSets = None,
        heads: int | Sequence[int] | None = None,
        neurons: int | Sequence[int] | None = None,
        keys: TokenSet | None = None,
        masks: MaskInput | None = None,
    ) -> "Plan":
        """
        Raises:
            InputError: as `find_site` and `make_cells`; sites of several kinds at once.
        """
        found = [find_site(model, name) for name in ([sites] if isinstance(sites, str) else sites)]
        if not found:
            raise InputError("the list of sites is empty")
        if len({site.unit for site in found}) > 1:
            raise InputError("sites by token, by head and by neuron cannot share a sweep: run one sweep for each kind")
        grid = model.embed.grid(*images.shape[-2:])
        chosen = model.block_indices(blocks)
        cells = [
            make_cells(
                model, site, len(images), grid, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks
            )
            for site in found
        ]
        return cls(cells, chosen, grid, not isinstance(sites, str))

    @property
    def site_names(self) -> str | list[str]:
        names = [cells.site.name for cells in self.sites]
        return names if self.several_sites else names[0]

    @property
    def axes(self) -> dict[str, list]:
        """Those of the result between metrics and pictures."""
        sites: dict[str, list] = {"site": [cells.site.name for cells in self.sites]} if self.several_sites else {}
        return {**sites, "block": self.blocks, **self.sites[0].axes}


@dataclass(frozen=True)
class Step:
    """The logits [cell, image, class] of some cells of one site and block, for a slice of the pictures."""

    site: int
    block: int
    cells: list[int]
    images: slice
    logits: Float[Tensor, "cell image classes"]


def run_sweep(
    model: HookedViT,
    plan: Plan,
    target: Float[Tensor, "image channels height width"],
    source: Source,
    measures: Measures,
    known: Float[Tensor, "metric ..."] | None,
    *,
    batch_size: int | None,
    progress: bool | None,
) -> Float[Tensor, "metric ..."]:
    """The metrics of every cell, NaN where the sweep was interrupted; `known` is what an earlier one reached."""
    shape = (len(measures.metrics), len(plan.sites), len(plan.blocks), len(plan.sites[0]), len(target))
    values = open_values(model, shape, known)
    todo = values.isnan().any(dim=0)
    all_at_once = measures.need_all_at_once
    with torch.no_grad(), Interrupts(values) as interrupts:
        for step in sweep(
            model, plan, target, source, todo, batch_size=batch_size, all_at_once=all_at_once, progress=progress
        ):
            site = plan.sites[step.site]
            for cell, logits in zip(step.cells, step.logits, strict=True):
                where = f"{site.site.name} of block {plan.blocks[step.block]}, {site.label(cell)}"
                values[:, step.site, step.block, cell, step.images] = measures(logits, where, step.images)
            if interrupts.asked:
                break
    return values.reshape(shape[0], *[len(labels) for labels in plan.axes.values()], len(target))


def sweep(
    model: HookedViT,
    plan: Plan,
    target: Float[Tensor, "image channels height width"],
    source: Source,
    todo: Bool[Tensor, "site block cell image"],
    *,
    batch_size: int | None,
    all_at_once: bool = False,
    progress: bool | None = None,
) -> Iterator[Step]:
    """Runs the cells that are still to do, picture chunk by chunk, site by site and block by block.

    A chunk's run on the target is made once; every cell starts from its stream at the block that is patched. Cells of one
    block share forwards; in the last block only the tokens that the classifier reads are computed.

    Args:
        all_at_once: run a cell on all pictures together, for a metric that is one number of them all.

    Raises:
        InputError: `batch_size` rows would not fit in memory.
    """
    sites, blocks = plan.sites, plan.blocks
    n_tokens = model.cfg.n_prefix_tokens + plan.grid[0] * plan.grid[1]
    rows = rows_per_forward(model, n_tokens, batch_size, any(cells.site.name in EDGE_SITES for cells in sites))
    whole = last_block_is_watched(model)
    chunks = picture_chunks(len(target), rows, batch_size, all_at_once)
    description = "patching " + ", ".join(cells.site.name for cells in sites)
    n_runs = int(todo.sum())
    with ProgressBar(n_runs, description, "run", progress, -(-n_runs // rows)) as bar:
        for images in chunks:
            here = todo[..., images].any(dim=-1)
            needed = [(i, j) for i in range(len(sites)) for j in range(len(blocks)) if here[i, j].any()]
            if not needed:
                continue
            names = {sites[i].site.hook(blocks[j]) for i, j in needed}
            streams = {_entry(sites[i].site, blocks[j])[0] for i, j in needed}
            of_source = source.activations(model, sorted(names), target[images], images)
            of_target = model.run_with_cache(target[images], names_filter=sorted(streams))[1].cache_dict
            at_once = max(1, rows // (images.stop - images.start))
            for i, j in needed:
                waiting = here[i, j].nonzero()[:, 0].tolist()
                for start in range(0, len(waiting), at_once):
                    chosen = waiting[start : start + at_once]
                    inside = sites[i].where(chosen, images)
                    logits = _patched(model, sites[i].site, blocks[j], plan.grid, of_target, of_source, inside, whole)
                    yield Step(i, j, chosen, images, logits)
                    bar.update(logits.shape[0] * logits.shape[1])


def open_values(
    model: HookedViT, shape: Sequence[int], known: Float[Tensor, "metric ..."] | None
) -> Float[Tensor, "metric ..."]:
    """Values to fill: NaN, except those that are known."""
    if known is not None:
        return known.reshape(tuple(shape)).to(model.device, model.dtype, copy=True)
    return torch.full(tuple(shape), torch.nan, dtype=model.dtype, device=model.device)


class InterruptedWarning(UserWarning):
    """A sweep was interrupted, so its result is not complete."""


class Interrupts:
    """A first Ctrl-C (Jupyter's stop) inside only sets `asked`, so that the current step is finished and hooks are removed.

    A second one ends the block at once. A warning then says how much of `values` is still NaN. Threads other than the main
    one are never interrupted, nor are processes that ignore the signal (as started by nohup).
    """

    def __init__(self, values: Float[Tensor, "metric ..."]) -> None:
        self.values = values
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupts":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            return False
        reached = 1 - self.values.isnan().any(dim=0).double().mean().item()
        if reached < 1:
            warnings.warn(
                f"interrupted after {reached:.0%} of the patched runs: the result holds them and NaN elsewhere; pass "
                "resume=result to go on",
                InterruptedWarning,
                stacklevel=3,
            )
        return True

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _entry(site: Site, block: int) -> tuple[str, int]:
    """The stream that a patched run starts from, and the first block that it runs."""
    return (site.hook(block), block + 1) if site.name == "resid_post" else (f"blocks.{block}.hook_resid_pre", block)


def _patched(
    model: HookedViT,
    site: Site,
    block: int,
    grid: tuple[int, int],
    of_target: ActivationTable,
    of_source: ActivationTable,
    inside: Bool[Tensor, "cell image ..."],
    whole: bool,
) -> Float[Tensor, "cell image classes"]:
    """One forward whose rows are cells × pictures."""
    n_cells, n_images = inside.shape[:2]
    name = site.hook(block)
    stream_name, first = _entry(site, block)
    rows = rearrange(inside, "c i ... -> (c i) ...")
    replacement = of_source[name]
    if replacement.ndim and len(replacement) == n_images:
        replacement = repeat(replacement, "i ... -> (c i) ...", c=n_cells)
    stream = repeat(of_target[stream_name], "i ... -> (c i) ...", c=n_cells)
    if name == stream_name:
        logits = forward_suffix(model, torch.where(rows, replacement, stream), first, grid, whole=whole)
    else:
        write = partial(_write, inside=rows, replacement=replacement, query_axis=2 if site.name in EDGE_SITES else 1)
        with model.hooks(fwd_hooks=[(name, write)]):
            logits = forward_suffix(model, stream, first, grid, whole=whole)
    return rearrange(logits, "(c i) k -> c i k", c=n_cells)


def _write(activation: Tensor, hook: HookPoint, inside: Tensor, replacement: Tensor, query_axis: int) -> Tensor:
    """The activation with its patched entries replaced; of the last block it may hold the first tokens only."""
    n_here = activation.shape[query_axis]
    inside = inside.narrow(query_axis, 0, n_here)
    if replacement.ndim:
        replacement = replacement.narrow(query_axis, 0, n_here)
    return torch.where(inside, replacement, activation)


def picture_chunks(n_images: int, rows: int, batch_size: int | None, all_at_once: bool) -> list[slice]:
    """Slices of pictures that share their runs on source and target, for forwards with this number of rows.

    Raises:
        InputError: all pictures are needed at once, and `batch_size` rows are fewer.
    """
    # Those runs serve all cells of all blocks, so a chunk may be larger than a forward needs to be.
    per_chunk = max(rows, PICTURES_PER_CHUNK) if batch_size is None else rows
    if all_at_once and per_chunk < n_images:
        if batch_size is not None:
            raise InputError(
                "a metric that is one number for all pictures needs them in one forward: pass "
                f"batch_size={n_images} or more, or return one number per picture"
            )
        per_chunk = n_images
    return [slice(first, min(first + per_chunk, n_images)) for first in range(0, n_images, per_chunk)]


def rows_per_forward(model: HookedViT, n_tokens: int, asked: int | None, watches_pattern: bool) -> int:
    """How many rows a forward has: those that are asked for, if they fit in memory; by default as many as are fast.

    Raises:
        InputError: fewer than one row, or more than fit.
    """
    each = bytes_per_row(model, n_tokens, watches_pattern)
    on_gpu = model.device.type == "cuda"
    free = torch.cuda.mem_get_info(model.device)[0] if on_gpu else psutil.virtual_memory().available
    if asked is None:
        return max(1, free // 4 // each if on_gpu else min(max(CPU_ROWS, CPU_BYTES // each), free // 4 // each))
    if asked < 1:
        raise InputError(f"batch_size is at least 1, not {asked}")
    if asked * each > free:
        raise InputError(
            f"forwards of {asked} pictures would take about {asked * each / 2**30:.1f} GB of the {free / 2**30:.1f} GB that "
            f"are free: pass batch_size={max(1, free // each)} or less, or leave it out"
        )
    return asked


def bytes_per_row(model: HookedViT, n_tokens: int, watches_pattern: bool = False) -> int:
    """The memory of one row's activations while a block runs, estimated generously."""
    d_mlp = model.blocks[0].mlp.W_out.shape[0]
    per_token = 10 * model.cfg.d_model + 3 * d_mlp
    if watches_pattern or not model.blocks[0].attn.fused:
        per_token += 3 * model.cfg.n_heads * n_tokens
    return n_tokens * per_token * model.embed.patch_embed_weight.element_size()
