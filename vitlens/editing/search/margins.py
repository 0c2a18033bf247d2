"""The margin of each picture, the label's logit minus the largest other one, and what each part writes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.attribution.direct import direct_logit_attribution
from vitlens.attribution.results import Attribution
from vitlens.choose.tokens import select_tokens
from vitlens.data.masks import MaskInput
from vitlens.editing.labelled import LabelledPictures
from vitlens.errors import InputError
from vitlens.features.attribution import feature_attribution
from vitlens.features.placed import AnyDictionary
from vitlens.model.class_space.outputs import largest_other
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.results.axes import ComponentLabel, head_label
from vitlens.results.result import as_array

#: Which parts can be compared, and the kind that their labels have.
PARTS = {"heads": "head", "mlps": "mlp", "neurons": "neuron"}
#: The sets of tokens through which a head's share is split, where masks are given.
READ_FROM = ("object", "context", "prefix")
#: Parts, and the share of each in every picture of a batch.
Table = tuple[list[ComponentLabel], np.ndarray]


@dataclass(frozen=True)
class MarginSplit:
    """What is split off the margin: kinds of parts, features of a dictionary, heads by the tokens that they read."""

    parts: Sequence[str]
    sae: AnyDictionary | None = None
    hook: HookName | None = None
    masks: MaskInput | None = None

    def __post_init__(self) -> None:
        if not self.parts and self.sae is None and self.masks is None:
            raise InputError(f"parts are one or several of {', '.join(PARTS)}: the list is empty")
        for part in self.parts:
            if part not in PARTS:
                raise InputError(f"parts are one or several of {', '.join(PARTS)}, not {part!r}")
        if self.hook is not None and self.sae is None:
            raise InputError("hook= says where a dictionary reads: give the dictionary as sae=, or leave hook= out")


@dataclass
class Margins:
    """Tables of all pictures, filled batch by batch; `seen` are those that could be read.

    `margins` = the shares of heads and MLPs + `rest`; neurons, features, and heads by tokens split these further. `rivals`
    are the classes of the largest other logit.
    """

    model: HookedViT
    pictures: LabelledPictures
    wanted: MarginSplit
    parts: list[ComponentLabel] = field(default_factory=list)
    shares: Float[np.ndarray, "image part"] = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        n = len(self.pictures)
        self.seen: Bool[np.ndarray, "image"] = np.zeros(n, dtype=bool)
        self.rivals: Int[Tensor, "image"] = torch.zeros(n, dtype=torch.long)
        self.margins, self.correct, self.rest = (np.full(n, np.nan) for _ in range(3))
        self._sources: dict[str, Bool[Tensor, "image tokens"]] | None = None

    def fill(self, progress: bool | None) -> None:
        """Goes through all pictures."""
        for places, images, labels in self.pictures.batches("shares of the margin", progress):
            with torch.no_grad():
                logits = self.model(images)
            others = largest_other(logits, labels)
            at = places.numpy()
            self.seen[at], self.rivals[places] = True, others.indices.cpu()
            own = logits.gather(1, labels[:, None])[:, 0]
            self.margins[at] = as_array((own - others.values).double())
            self.correct[at] = as_array((own > others.values).double())
            tables = self._split(places, images, labels, others.indices)
            if not self.parts:
                self.parts = [label for names, _ in tables for label in names]
                # Neurons are many, and a number of each for every picture is kept.
                kind = np.float64 if logits.dtype == torch.float64 else np.float32
                self.shares = np.full((len(self.seen), len(self.parts)), np.nan, dtype=kind)
            self.shares[at] = np.concatenate([table for _, table in tables], axis=1)

    def _split(self, places: Tensor, images: Tensor, labels: Tensor, rivals: Tensor) -> list[Table]:
        """The shares of everything that is wanted; what heads and MLPs leave goes to `rest`."""

        about: dict[str, Any] = {"batch_size": len(images), "progress": False}

        def shares(unit: str) -> Attribution:
            return direct_logit_attribution(self.model, images, labels, baseline_classes=rivals, unit=unit, **about)

        kinds = [PARTS[part] for part in self.wanted.parts]
        of_heads = shares("head")
        labelled = of_heads.axes["component"]
        chosen = np.array([label.kind in kinds for label in labelled])
        values = as_array(of_heads.values[:, 0])
        self.rest[places.numpy()] = values[:, ~chosen].sum(axis=1, dtype=np.float64)
        tables: list[Table] = [([label for label in labelled if label.kind in kinds], values[:, chosen])]
        if "neuron" in kinds:
            found = shares("neuron")
            tables.append((found.unit_names(), as_array(found.values[:, 0].flatten(1))))
        if self.wanted.masks is not None:
            tables += self._by_source(places, shares("head_patch").values[:, 0], images)
        if self.wanted.sae is not None:
            both = torch.stack([labels, rivals], dim=1)
            coded = feature_attribution(self.model, images, both, sae=self.wanted.sae, hook=self.wanted.hook, **about)
            names = [ComponentLabel(f"feature {name}", "feature") for name in coded.axes["feature"]]
            tables.append((names, as_array(coded.values[:, 0] - coded.values[:, 1])))
        return tables

    def _by_source(
        self, places: Tensor, values: Float[Tensor, "image block head source"], images: Tensor
    ) -> list[Table]:
        """Each head's share from the object's patches, from the context's, and from the prefix tokens."""
        if self._sources is None:
            grid, about = self.model.embed.grid(*images.shape[-2:]), {"masks": self.wanted.masks}
            given = {name: about for name in READ_FROM} | {"prefix": {}}
            self._sources = {
                name: select_tokens(
                    self.model, name, len(self.seen), grid=grid, some_may_be_empty=True, **given[name]
                ).to(values.device)
                for name in READ_FROM
                if name != "prefix" or self.model.cfg.n_prefix_tokens
            }
        tables = []
        for name, tokens in self._sources.items():
            summed = (values * tokens[places, None, None]).sum(dim=-1)
            labels = [
                ComponentLabel(f"{head_label(block, head)} ← {name}", "path", block, head)
                for block in range(summed.shape[1])
                for head in range(summed.shape[2])
            ]
            tables.append((labels, as_array(summed.flatten(1))))
        return tables
