"""Splits labelled pictures in groups into two parts, and reads each part by the pictures' numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vitlens.editing.groups import Groups
from vitlens.errors import InputError
from vitlens.model.runs.picture_batches import PictureBatches


@dataclass(frozen=True)
class SomePictures:
    """Some of the pictures of a source, with their labels, groups and clusters."""

    batches: PictureBatches
    numbers: Int[Tensor, "image"]
    labels: Int[Tensor, "image"]
    groups: Groups
    clusters: Int[Tensor, "image"]

    def __iter__(self) -> Iterator[Any]:
        """Pictures, labels and groups, as analyses take them."""
        yield from (self.images, self.labels, self.groups)

    def __len__(self) -> int:
        return len(self.numbers)

    def images(self) -> Iterator[Tensor]:
        """The pictures, batch by batch.

        Raises:
            InputError: one of them cannot be read, after which labels would belong to other pictures.
        """
        wanted = self.numbers.tolist()
        for batch in self.batches.numbered(wanted):
            expected, wanted = wanted[: len(batch.ids)], wanted[len(batch.ids) :]
            if batch.ids.tolist() != expected:
                missing = next(number for number in expected if number not in batch.ids.tolist())
                raise InputError(f"picture {missing} (counted from 0) cannot be read: leave it out of the data set")
            yield batch.images
        if wanted:
            raise InputError(f"picture {wanted[0]} (counted from 0) cannot be read: leave it out of the data set")

    def some(self, n: int, seed: int = 0) -> "SomePictures":
        """At most n of them, drawn at random, as many of each group as there are or as come to its part."""
        generator = torch.Generator().manual_seed(seed)
        share = -(-n // len(self.groups.names))
        chosen = torch.zeros(len(self), dtype=torch.bool)
        for place in range(len(self.groups.names)):
            here = (self.groups.of_image == place).nonzero()[:, 0]
            chosen[here[torch.randperm(len(here), generator=generator)[:share]]] = True
        return self.only(chosen)

    def only(self, where: Bool[Tensor, "image"]) -> "SomePictures":
        """Those of them; a group keeps its place."""
        groups = Groups(self.groups.names, self.groups.of_image[where])
        return SomePictures(self.batches, self.numbers[where], self.labels[where], groups, self.clusters[where])


def split_pictures(
    labels: Int[Tensor, "image"],
    groups: Groups,
    clusters: Int[Tensor, "image"],
    held_out: Any,
    seed: int = 0,
) -> Bool[Tensor, "image"]:
    """Which pictures are held out: of each class this share of its clusters, or those that are given.

    Raises:
        InputError: a share outside (0, 1); a part without one of the groups.
    """
    if isinstance(held_out, Tensor):
        if held_out.shape != labels.shape or held_out.dtype != torch.bool:
            raise InputError(
                f"held_out= says True or False of each of {len(labels)} pictures, not {list(held_out.shape)}"
            )
        chosen = held_out.cpu()
    else:
        if isinstance(held_out, bool) or not isinstance(held_out, (int, float)) or not 0 < held_out < 1:
            raise InputError(
                f"held_out is the share of the pictures that the report is about, such as 0.5, not {held_out}"
            )
        chosen = torch.zeros(len(labels), dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        # A cluster goes by its first picture's class, so that no picture of it is in both parts.
        unique, where = clusters.unique(return_inverse=True)
        of_cluster = labels.new_zeros(len(unique)).scatter_(0, where.flip(0), labels.flip(0))
        for label in of_cluster.unique():
            here = (of_cluster == label).nonzero()[:, 0]
            drawn = here[torch.randperm(len(here), generator=generator)[: round(held_out * len(here))]]
            chosen |= torch.isin(where, drawn)
    for part, name in ((chosen, "held-out"), (~chosen, "other")):
        present = set(groups.of_image[part].tolist())
        missing = next((group for place, group in enumerate(groups.names) if place not in present), None)
        if missing is not None:
            raise InputError(
                f"there is no picture of the group {missing!r} among the {name} ones: give more, or split otherwise"
            )
    return chosen
