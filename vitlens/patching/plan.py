"""What a sweep goes over, and how its cells become numbers: run, interrupted, resumed."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.choose.metrics import Measures
from vitlens.choose.sites import Cells, TokenSets, find_site, make_cells
from vitlens.choose.tokens import TokenSet
from vitlens.data.masks import MaskInput
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.patching.interrupts import Interrupts
from vitlens.patching.sources import Source
from vitlens.patching.sweep import sweep


@dataclass(frozen=True)
class Plan:
    """What a sweep goes over: cells of one or several sites, in some blocks."""

    sites: list[Cells]
    blocks: list[int]
    grid: tuple[int, int]
    n_images: int
    several_sites: bool

    @classmethod
    def make(
        cls,
        model: HookedViT,
        pictures: Float[Tensor, "image channels height width"],
        site: str | Sequence[str],
        blocks: int | Sequence[int] | None,
        *,
        tokens: TokenSets,
        heads: int | Sequence[int] | None,
        neurons: int | Sequence[int] | None,
        keys: TokenSet | None,
        masks: MaskInput | None,
    ) -> "Plan":
        """
        Raises:
            InputError: as `find_site` and `make_cells`; sites of several kinds at once.
        """
        found = [find_site(model, name) for name in ([site] if isinstance(site, str) else site)]
        if not found:
            raise InputError("the list of sites is empty")
        if len({chosen.unit for chosen in found}) > 1:
            raise InputError("sites by token, by head and by neuron need a sweep each: their cells are different ones")
        grid = model.embed.grid(*pictures.shape[-2:])
        chosen = model.block_indices(blocks)
        cells = [
            make_cells(
                model, one, len(pictures), grid, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks
            )
            for one in found
        ]
        return cls(cells, chosen, grid, len(pictures), not isinstance(site, str))

    @property
    def site_names(self) -> str | list[str]:
        names = [cells.site.name for cells in self.sites]
        return names if self.several_sites else names[0]

    @property
    def axes(self) -> dict[str, list]:
        """Those of the result between metrics and pictures."""
        sites: dict[str, list] = {"site": [cells.site.name for cells in self.sites]} if self.several_sites else {}
        return {**sites, "block": self.blocks, **self.sites[0].axes}

    def label(self, site: int, block: int, cell: int) -> str:
        cells = self.sites[site]
        return f"{cells.site.name} of block {self.blocks[block]}, {cells.label(cell)}"

    def run(
        self,
        model: HookedViT,
        target: Float[Tensor, "image channels height width"],
        source: Source,
        measures: Measures,
        known: Float[Tensor, "metric ..."] | None,
        *,
        batch_size: int | None,
        progress: bool,
    ) -> Float[Tensor, "metric ..."]:
        """The metrics of every cell, NaN where the sweep was interrupted; `known` is what an earlier one reached."""
        shape = (len(measures.metrics), len(self.sites), len(self.blocks), len(self.sites[0]), self.n_images)
        values = open_values(model, shape, known)
        steps = sweep(
            model,
            target,
            source,
            self.sites,
            self.blocks,
            values.isnan().any(dim=0),
            batch_size=batch_size,
            all_at_once=measures.need_all_at_once,
            progress=progress,
            description="patching " + ", ".join(cells.site.name for cells in self.sites),
        )
        measured = (
            (
                (slice(None), step.site, step.block, cell, step.images),
                measures(logits, self.label(step.site, step.block, cell), step.images),
            )
            for step in steps
            for cell, logits in zip(step.cells, step.logits, strict=True)
        )
        fill(values, measured)
        sizes = [len(labels) for labels in self.axes.values()]
        return values.reshape(shape[0], *sizes, self.n_images)


def open_values(
    model: HookedViT, shape: Sequence[int], known: Float[Tensor, "metric ..."] | None
) -> Float[Tensor, "metric ..."]:
    """Values to fill: NaN, but for those that are known."""
    if known is not None:
        return known.reshape(tuple(shape)).to(model.device, model.dtype, copy=True)
    return torch.full(tuple(shape), torch.nan, dtype=model.dtype, device=model.device)


def fill(values: Float[Tensor, "metric ..."], measured: Iterable[tuple[Any, Tensor]]) -> None:
    """Writes every measured value to its place, until done or interrupted; then a warning says how to go on."""
    try:
        with torch.no_grad(), Interrupts() as interrupts:
            for place, value in measured:
                values[place] = value
                if interrupts.asked:
                    break
    except KeyboardInterrupt:
        pass
    reached = 1 - values.isnan().any(dim=0).double().mean().item()
    if reached < 1:
        warnings.warn(
            f"interrupted after {reached:.0%} of the patched runs: the result holds them and NaN elsewhere; pass "
            "resume=result to go on",
            stacklevel=4,
        )
