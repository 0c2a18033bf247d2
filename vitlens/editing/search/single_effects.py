"""What one part alone does: its activation replaced by its mean over the data, or by that of another picture's run."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.data.pictures import Pictures
from vitlens.editing.search.margins import Margins
from vitlens.errors import InputError
from vitlens.model.class_space.outputs import largest_other
from vitlens.model.runs.picture_batches import PictureBatches
from vitlens.patching.ablation import activation_ablation
from vitlens.patching.sources import mean_activations
from vitlens.results.axes import ComponentLabel
from vitlens.results.result import as_array

#: Where the activation of a part is replaced.
REPLACED_AT = {"head": "z", "mlp": "mlp_out", "neuron": "post"}


@dataclass
class SingleEffects:
    """Tables [image, part]: how the margin, and whether the label is predicted, change when the part alone is replaced.

    NaN where nothing was run: parts that are no heads, MLPs or neurons, and all `patched` without other pictures.
    """

    exact: Margins
    parts: Sequence[ComponentLabel]
    others: Pictures | None = None
    margin: Float[np.ndarray, "image part"] = field(init=False)
    correct: Float[np.ndarray, "image part"] = field(init=False)
    patched: Float[np.ndarray, "image part"] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.exact.pictures)
        self.margin, self.correct, self.patched = (np.full((n, len(self.parts)), np.nan) for _ in range(3))
        self.partners = None
        if self.others is not None:
            self.partners = PictureBatches(self.exact.model, self.others, self.exact.pictures.source.batch_size)
            given = self.partners.n_numbered
            if given != n:
                found = "batches without numbers" if given is None else f"{given} others"
                raise InputError(
                    f"others= are the partner of each of the {n} pictures, as a tensor, files or a picture set: {found} "
                    "were given"
                )

    def fill(self, images: Any, progress: bool | None) -> None:
        """Goes through all pictures."""
        sweeps = list(self._sweeps())
        if not sweeps:
            return
        means = self._means(images, progress)
        for places, batch, labels in self.exact.pictures.batches("ablation of single parts", progress):
            at = places.numpy()[:, None]
            for columns, where in sweeps:
                changed = self._changed(places, batch, labels, where, means)
                self.margin[at, columns], self.correct[at, columns] = changed
            if self.partners is not None:
                partners = self._partners_of(places)
                for columns, where in sweeps:
                    self.patched[at, columns] = self._changed(places, batch, labels, where, "other", partners)[0]

    def _partners_of(self, places: Tensor) -> Float[Tensor, "image channels height width"]:
        assert self.partners is not None
        found = [image for _, image in self.partners.by_number(places.tolist())]
        if len(found) != len(places):
            raise InputError("some of others= cannot be read: leave them out, and the pictures whose partners they are")
        return torch.stack(found)

    def _sweeps(self) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Which columns a sweep fills, and its cells: all heads, all MLPs, and the neurons of each block."""
        column = {part: i for i, part in enumerate(self.parts)}
        cells: dict[tuple[str, int | None], list[ComponentLabel]] = defaultdict(list)
        for part in self.parts:
            if part.kind in REPLACED_AT:
                cells[part.kind, part.block if part.kind == "neuron" else None].append(part)
        for (kind, block), parts in cells.items():
            where: dict[str, Any] = {"sites": REPLACED_AT[kind]}
            if kind == "mlp":
                where["tokens"] = ["all"]
            if kind == "neuron":
                where |= {"blocks": block, "neurons": [part.neuron for part in parts]}
            yield [column[part] for part in parts], where

    def _means(self, images: Any, progress: bool | None) -> Mapping[str, Tensor]:
        """The mean activation at each position, over all pictures, of every part that is ablated."""
        model, size = self.exact.model, self.exact.pictures.source.batch_size
        kinds = {part.kind for part in self.parts}
        found: dict[str, Tensor] = {}
        sites = [REPLACED_AT[kind] for kind in ("head", "mlp") if kind in kinds]
        if sites:
            found |= mean_activations(model, images, sites=sites, batch_size=size, progress=progress)
        if "neuron" in kinds:
            blocks = sorted({part.block for part in self.parts if part.kind == "neuron" and part.block is not None})
            about: dict[str, Any] = {"batch_size": size, "progress": progress}
            found |= mean_activations(model, images, sites="post", blocks=blocks, **about)
        return found

    def _changed(
        self,
        places: Tensor,
        images: Tensor,
        labels: Tensor,
        where: dict[str, Any],
        replacement: str | Mapping[str, Tensor],
        others: Tensor | None = None,
    ) -> tuple[Float[np.ndarray, "image part"], Float[np.ndarray, "image part"]]:
        """The changes of the margin and of the correctness of these pictures, by the cells of a sweep."""

        def correct(logits: Tensor) -> Tensor:
            return (logits.gather(1, labels[:, None])[:, 0] > largest_other(logits, labels).values).to(logits.dtype)

        found = activation_ablation(
            self.exact.model,
            images,
            labels,
            baseline_classes=self.exact.rivals[places].to(images.device),
            metric={"margin": "logit_difference", "correct": correct},
            replacement=replacement,
            others=others,
            progress=False,
            **where,
        )
        margin, right = as_array(found.values.flatten(1, -2).double()).transpose(0, 2, 1)
        return margin, right
