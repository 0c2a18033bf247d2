"""The pictures of a data set in which each unit of the graphs is strongest, found in one pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.replacement import Transcoders, placed_transcoders
from vitlens.errors import InputError
from vitlens.features.places import HookPlace, place_of, read_places
from vitlens.features.strongest import MOST_CODES, StrongestTokens
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.pages.dictionary.measure.crops import SmallPictures
from vitlens.pages.graph.measure.units import BlockUnit

#: Pictures of each unit, no picture twice.
N_STRONGEST = 6


@dataclass(frozen=True)
class UnitReader:
    """The units of one block that are wanted, and how they are read at one hook point."""

    place: HookPlace
    encode: Callable[[Float[Tensor, "*batch d"]], Float[Tensor, "*batch unit"]]
    width: int
    wanted: list[int]


@dataclass(frozen=True)
class Examples:
    """The strongest pictures of each unit (−1 where there are none), the token in each, and the activation there."""

    images: Int[Tensor, "unit rank"]
    tokens: Int[Tensor, "unit rank"]
    values: Float[Tensor, "unit rank"]
    crops: SmallPictures
    n_images: int


@torch.no_grad()
def examples_of(
    model: HookedViT,
    units: Sequence[BlockUnit],
    transcoders: Transcoders,
    batches: PictureBatches,
    grid: tuple[int, int],
    progress: bool | None,
) -> Examples:
    """
    Raises:
        InputError: no pictures, or pictures whose grid is not that of the page.
    """
    readers = _readers(model, units, transcoders)
    found = {block: StrongestTokens(N_STRONGEST, one_per_image=True) for block in readers}
    crops, n = SmallPictures(), 0
    for batch in batches.with_bar("examples", progress):
        here = model.embed.grid(*batch.images.shape[-2:])
        if here != grid:
            raise InputError(f"data= has pictures of {here} patches, and the page {grid}: bring them to one size")
        read = read_places(model, batch.images, [reader.place for reader in readers.values()])
        for block, reader in readers.items():
            rows = read[reader.place.name]
            step = max(1, MOST_CODES // (rows.shape[1] * reader.width))
            for some in torch.arange(len(rows)).split(step):
                codes = reader.encode(rows[some[0] : some[-1] + 1])[..., reader.wanted]
                found[block].add(codes, batch.ids[some], reader.place.ids(rows.shape[1]))
        shown = torch.cat([tops.images.flatten() for tops in found.values()])
        chosen = torch.isin(batch.ids.to(shown.device), shown).nonzero()[:, 0].tolist()
        crops.add(model, batch.ids[chosen].tolist(), batch.images[chosen])
        if crops.is_crowded:
            crops.keep(set(shown.tolist()))
        n += len(batch.ids)
    if not n:
        raise InputError("data= holds no pictures to look for examples in")
    best = [tops.best for tops in found.values() if tops.best is not None]
    values, images, tokens = (
        torch.cat([part.T for part in parts]).cpu()
        for parts in (best, [tops.images for tops in found.values()], [tops.tokens for tops in found.values()])
    )
    there = (values > 0) & (images >= 0)
    return Examples(torch.where(there, images, -1), torch.where(there, tokens, -1), values * there, crops, n)


def _readers(model: HookedViT, units: Sequence[BlockUnit], transcoders: Transcoders) -> dict[int, UnitReader]:
    """By block, in the order of blocks, as the units stand."""
    wanted: dict[int, list[int]] = {}
    for block, unit in units:
        wanted.setdefault(block, []).append(unit)
    if transcoders is None:
        places = {block: place_of(model, hook_name(block, "mlp.post")) for block in wanted}
        width = model.blocks[0].mlp.W_out.shape[0]
        return {block: UnitReader(places[block], lambda rows: rows, width, wanted[block]) for block in wanted}
    readers = {}
    for placed in placed_transcoders(model, transcoders):
        for part, source in enumerate(placed.sources):
            if source.block in wanted:

                def encode(rows: Tensor, placed: object = placed, part: int = part) -> Tensor:
                    return placed.encode_part(part, rows)  # type: ignore[attr-defined]

                readers[source.block] = UnitReader(source, encode, placed.n_features[part], wanted[source.block])
    return dict(sorted(readers.items()))
