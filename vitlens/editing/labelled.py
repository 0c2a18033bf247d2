"""Labelled pictures, gone through several times in batches: a picture is known by its place in the source."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.classes import read_labels
from vitlens.data.picture_sets import PictureSet
from vitlens.editing.groups import GroupInput, Groups, read_groups, read_names
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource

#: Rows of a picture set that are read at once for their labels.
LABELS_AT_ONCE = 256


class LabelledPictures:
    """Pictures with `labels` [image]; each pass over `batches` reads them again, and one batch is held in memory.

    `groups` are those of a picture set that was opened with group_column=; None of anything else.
    """

    def __init__(self, model: HookedViT, images: PictureSource, labels: Any, batch_size: int | None) -> None:
        self.source = PictureBatches(model, images, batch_size)
        if self.source.can_be_read_once:
            raise InputError(
                "these pictures are gone through several times, and an iterator gives them once: pass a tensor, a list, a "
                "picture set or a data loader"
            )
        self.groups: list[str] | None = None
        if isinstance(images, PictureSet):
            rows = list(rows_without_bytes(images))
            labels = [row["label"] for row in rows] if labels is None else labels
            self.groups = [row["group"] for row in rows] if rows and "group" in rows[0] else None
        if labels is None:
            raise InputError("labels= are missing: the class of each picture, whole numbers in a tensor [image]")
        self.labels = read_labels(model, labels)
        n_known = self.source.n_pictures
        if n_known is not None and n_known != len(self.labels):
            raise InputError(f"{len(self.labels)} labels were given for {n_known} pictures")

    def __len__(self) -> int:
        return len(self.labels)

    def read_groups(self, groups: GroupInput | Groups | None) -> Groups:
        """The group of each picture; by default those of the picture set.

        Raises:
            InputError: there are none, or they do not fit.
        """
        given = self.groups if groups is None else groups
        if given is None:
            raise InputError("groups= are missing: the group of each picture, names or whole numbers")
        return read_groups(given, len(self))

    def batches(
        self, what: str, progress: bool | None
    ) -> Iterator[tuple[Int[Tensor, "image"], Float[Tensor, "image channels height width"], Int[Tensor, "image"]]]:
        """The places of a batch's pictures among all, the pictures, and their labels on the model's device.

        Raises:
            InputError: more pictures than labels, or a source that gives other labels at these places.
        """
        n_seen = 0
        for batch in self.source.with_bar(what, progress):
            if int(batch.ids[-1]) >= len(self):
                raise InputError(f"{len(self)} labels were given, and there are more pictures")
            labels = self.labels[batch.ids]
            if batch.labels is not None and not torch.equal(batch.labels.cpu().long(), labels):
                raise InputError(
                    "the batches come with other labels than those given: a loader that shuffles gives pictures in another "
                    "order each time, so pass one that does not"
                )
            n_seen = int(batch.ids[-1]) + 1
            yield batch.ids, batch.images, labels.to(batch.images.device)
        if n_seen < len(self) and not self.source.skipped:
            raise InputError(f"{len(self)} labels were given for {n_seen} pictures")


def read_clusters(clusters: Any, n_images: int) -> Int[np.ndarray, "image"] | None:
    """A number for the cluster of each picture."""
    if clusters is None:
        return None
    names = read_names(clusters, "clusters", "the cluster of each picture")
    if len(names) != n_images:
        raise InputError(f"{len(names)} clusters were given for {n_images} pictures: give the cluster of each picture")
    if all(name.lstrip("-").isdecimal() for name in names):
        return np.array([int(name) for name in names])
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names])


def rows_without_bytes(pictures: PictureSet) -> Iterator[dict[str, Any]]:
    """The path, the class and the group, where there is one, of each picture."""
    for _, rows in pictures.chunks(LABELS_AT_ONCE):
        for row in rows:
            yield {name: value for name, value in row.items() if name in ("path", "label", "group")}
