"""What neurons add to the embedding: directly, or through the values of later heads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.paths import into_values
from vitlens.attribution.run import (
    Kept,
    Wanted,
    Written,
    attribution_run,
    first_tokens,
    n_tokens_read,
    unchanged,
    wanted_neurons,
    wanted_pattern,
    written,
)
from vitlens.attribution.values import ValueRoute, value_routes
from vitlens.errors import InputError
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name


@dataclass(frozen=True)
class NeuronEffects:
    """The effects of some neurons of a block on the embeddings of pictures: `coordinates` [image, neuron, way] times `maps`.

    A neuron writes in a fixed direction for each way: one for each pooling group if it writes directly, and one for each
    later head if it writes through these.
    """

    view: HookedViT
    part: Written
    coordinates: Float[Tensor, "image neuron way"]
    readers: Sequence[ChosenReadout]
    routes: Sequence[tuple[int, ValueRoute]]

    def maps(self, some: slice) -> Float[Tensor, "neuron way joint"]:
        """The directions of some of the neurons."""
        assert self.part.W is not None
        if not self.routes:
            rows = self.part.W[some, 0]
            return torch.cat([einsum(one.directions[0], rows, "g e d, u d -> u g e") for one in self.readers], dim=1)
        part = replace(self.part, labels=self.part.labels[some], z=self.part.z[:, :, some], W=self.part.W[some])
        values = {index: into_values(self.view.blocks[index], part)[:, 0] for index, _ in self.routes}
        maps = [einsum(values[index], route.directions[0], "u h v, e h v -> u h e") for index, route in self.routes]
        return torch.cat(maps, dim=1)


def neuron_effects(
    view: HookedViT,
    pictures: Float[Tensor, "image channels height width"],
    block: int,
    order: int,
    neurons: Sequence[int],
) -> tuple[NeuronEffects, Float[Tensor, "image joint"]]:
    """The effects of these neurons, all norms' statistics and patterns frozen, and the embedding.

    Raises:
        InputError: what the neurons write does not stay a direction on its way.
    """
    wanted = wanted_neurons(view, block, first_tokens(n_tokens_read(view)) if order == 1 else unchanged)
    if order == 2:
        wanted |= _wanted_behind(view, block)
    kept, stream, embedding = attribution_run(view, pictures, wanted, "neuron" if order == 1 else "path")
    readers = [readout.every() for readout in view.linear_readouts(stream)]
    if any(len(reader.directions) > 1 for reader in readers):
        raise InputError(
            f"the way from neurons of {view.cfg.model_name} to its embedding differs between pictures (a maximum, or a head "
            'of several layers), so a neuron has no direction: use vitlens.direct_logit_attribution(unit="neuron")'
        )
    (part,) = [part for part in written(view, kept) if part.kind == "neuron"]
    assert part.W is not None
    labels = [part.labels[neuron] for neuron in neurons]
    part = replace(part, labels=labels, z=part.z[:, :, neurons], W=part.W[list(neurons)])
    if order == 1:
        ways = [einsum(one.weights, part.z[:, one.tokens, :, 0], "i g t, i t u -> i u g") for one in readers]
        return NeuronEffects(view, part, torch.cat(ways, dim=2), readers, []), embedding
    routes, ways = [], []
    for index in range(block + 1, view.cfg.n_layers):
        read = part.z[..., 0]
        if not view.blocks[index].norms_behind:
            read = read / kept[hook_name(index, "ln1.scale")]
        for route in _plain_routes(view, index, kept, readers):
            routes.append((index, route))
            ways.append(einsum(route.reach[..., 0], read, "i h j, i j u -> i u h"))
    return NeuronEffects(view, part, torch.cat(ways, dim=2), readers, routes), embedding


def _wanted_behind(view: HookedViT, block: int) -> Wanted:
    """What later heads read with, and move."""
    wanted: Wanted = {}
    for index in range(block + 1, view.cfg.n_layers):
        wanted |= wanted_pattern(view, index) | {hook_name(index, "ln1.scale"): unchanged}
    return wanted


def _plain_routes(view: HookedViT, index: int, kept: Kept, readers: Sequence[ChosenReadout]) -> list[ValueRoute]:
    """The routes through the heads of a block.

    Raises:
        InputError: something behind the values depends on the picture.
    """
    routes = list(value_routes(view.blocks[index], index, kept, readers))
    if any(route.centres or route.reach.shape[-1] > 1 for route in routes):
        raise InputError(
            f"heads of {view.cfg.model_name} have a gate or a norm behind their values, so a neuron has no direction behind "
            'them: use order=1, or vitlens.direct_logit_attribution(unit="path")'
        )
    return routes
