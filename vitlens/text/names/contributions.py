"""What heads write directly into the embedding of a picture: vectors of the space in which texts lie."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitlens.attribution.run import Wanted, Written, attribution_run, first_tokens, n_tokens_read, wanted_heads, written
from vitlens.model.class_space.readout import ChosenReadout
from vitlens.model.hooked_vit import HookedViT
from vitlens.results.axes import ComponentLabel


class Contributions(NamedTuple):
    """Vectors of the joint space, as coordinates · maps: `maps` are those of every picture, and `coordinates` few."""

    labels: list[ComponentLabel]
    coordinates: Float[Tensor, "image unit width"]
    maps: Float[Tensor, "unit width joint"]

    @property
    def vectors(self) -> Float[Tensor, "image unit joint"]:
        return einsum(self.coordinates, self.maps, "i u w, u w e -> i u e")


def head_contributions(
    view: HookedViT, pictures: Float[Tensor, "image channels height width"], blocks: Sequence[int]
) -> tuple[Contributions, Float[Tensor, "image joint"]]:
    """What each head of these blocks adds to the embedding, the final norm's statistics frozen, and the embedding.

    With all other terms of `direct_logit_attribution` on this view heads sum to the embedding."""
    cut = first_tokens(n_tokens_read(view))
    wanted: Wanted = {}
    for block in blocks:
        wanted |= wanted_heads(view, block, cut)
    kept, stream, embedding = attribution_run(view, pictures, wanted, "head")
    readers = [readout.every() for readout in view.linear_readouts(stream)]
    parts = [written_into(readers, part) for part in written(view, kept) if part.kind == "head"]
    together = Contributions(
        [label for part in parts for label in part.labels],
        torch.cat([part.coordinates for part in parts], dim=1),
        torch.cat([part.maps for part in parts]),
    )
    return together, embedding


def written_into(readers: Sequence[ChosenReadout], part: Written) -> Contributions:
    """What the units of a part add to the embedding.

    A unit's outputs lie in a space as wide as its z for each pooling group, which is mostly narrower than the joint space;
    where the way from there differs between pictures (maxima, layered heads), the coordinates are those of the joint space.
    """
    width = readers[0].directions.shape[2]
    groups = sum(reader.directions.shape[1] for reader in readers)
    shared = all(len(reader.directions) == 1 for reader in readers)
    if part.W is None or not shared or groups * part.z.shape[-1] > width:
        vectors = rearrange(part.share(readers), "i e u -> i u e")
        return Contributions(part.labels, vectors, torch.eye(width).to(vectors).expand(vectors.shape[1], -1, -1))
    pooled, maps = [], []
    for reader in readers:
        pooled.append(einsum(reader.weights, part.z[:, reader.tokens], "i g t, i t u f -> i u g f").flatten(2))
        maps.append(einsum(reader.directions[0], part.W, "g e d, u f d -> u g f e").flatten(1, 2))
    return Contributions(part.labels, torch.cat(pooled, dim=2), torch.cat(maps, dim=1))
