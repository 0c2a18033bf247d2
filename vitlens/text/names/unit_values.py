"""What is kept of every picture for naming: the value of each unit, and the embedding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.arguments import items, short
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends, paired_rows
from vitlens.features.places import HookPlace, chosen_rows, place_of
from vitlens.features.strongest import MOST_CODES
from vitlens.features.top_examples import feature_numbers
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.results.axes import ComponentLabel, head_label
from vitlens.text.seen import Viewer

POOLINGS = ("max", "mean")
#: Hook points whose numbers are of pairs of tokens.
OF_PAIRS = ("hook_pattern", "hook_attn_scores")


@dataclass(frozen=True)
class UnitTable:
    """A row for each picture, its embedding of length 1; `labels` are the units'."""

    values: Float[np.ndarray, "image unit"]
    embeddings: Float[np.ndarray, "image e"]
    labels: list[int] | list[ComponentLabel]


class Units:
    """The features of a dictionary, or the numbers or heads of a hook point, and their values in pictures.

    Raises:
        InputError: neither a dictionary nor a hook point; no such feature, hook point or tokens.
    """

    def __init__(
        self,
        model: HookedViT,
        sae: SparseAutoencoder | None,
        hook: HookName | None,
        hook_out: HookName | None,
        features: int | Sequence[int] | None,
        tokens: TokenSet,
        pooling: str,
    ) -> None:
        self.model, self.sae, self.tokens, self.pooling = model, sae, tokens, pooling
        if sae is not None:
            self.source, self.target = ends(model, hook, sae, hook_out)
        elif hook is None:
            raise InputError("name what gets names: the features of sae=, or the units of hook=")
        elif hook_out is not None:
            raise InputError("hook_out= goes with a transcoder: leave it out without sae=")
        else:
            self.source = self.target = place_of(model, hook)
            if self.source.name.endswith(OF_PAIRS):
                raise InputError(
                    f"{self.source.name} has numbers of pairs of tokens, which are no units: name heads by what they write, "
                    'hook=("z", block)'
                )
        self.wanted = features
        self.is_heads = False
        self.numbers = [] if sae is None else self._chosen(sae.d_sae)

    @property
    def places(self) -> list[HookPlace]:
        return list(dict.fromkeys((self.source, self.target)))

    @property
    def labels(self) -> list[int] | list[ComponentLabel]:
        """Numbers, or the names of heads."""
        block = self.source.block
        if not self.is_heads or block is None:
            return self.numbers
        return [head_label(block, head) for head in self.numbers]

    def _chosen(self, n: int) -> list[int]:
        if self.wanted is None:
            return list(range(n))
        # A feature that is named twice has one name.
        if self.sae is not None:
            return list(dict.fromkeys(feature_numbers(self.wanted, n)))
        chosen = list(dict.fromkeys(int(one) for one in items(self.wanted)))
        if not chosen or not all(0 <= one < n for one in chosen):
            raise InputError(
                f"features= are units of {self.source.name}, which has 0 to {n - 1}, not {short(self.wanted)}"
            )
        return chosen

    def values(self, found: Mapping[str, Tensor], grid: tuple[int, int]) -> Float[Tensor, "image unit"]:
        """The value of each unit in each picture, from the rows that `read_places` found.

        Raises:
            InputError: a unit that does not exist.
        """
        if self.sae is not None:
            rows, _, _ = paired_rows(self.model, self.sae, self.source, self.target, found, self.tokens, grid)
            step = max(1, MOST_CODES // (rows[0, ..., 0].numel() * self.sae.d_sae))
            return torch.cat([self._pooled(self.sae.encode(some)[..., self.numbers]) for some in rows.split(step)])
        rows = found[self.source.name]
        rows = rows[:, chosen_rows(self.model, self.source, self.tokens, rows.shape[1], grid).to(rows.device)]
        self.is_heads = rows.ndim == 4
        units = rows.norm(dim=-1) if self.is_heads else rows if rows.ndim == 3 else rows[..., None]
        self.numbers = self._chosen(units.shape[-1])
        return self._pooled(units[..., self.numbers])

    def _pooled(self, values: Float[Tensor, "image *row unit"]) -> Float[Tensor, "image unit"]:
        flat = values.flatten(1, -2)
        return flat.amax(dim=1) if self.pooling == "max" else flat.mean(dim=1)


def read_units(
    units: Units,
    images: PictureSource,
    width: int,
    other_model: HookedViT | None,
    batch_size: int | None,
    progress: bool | None,
) -> UnitTable:
    """One pass over the pictures, whose embeddings are as wide as texts.

    Raises:
        InputError: what `Units` and `Viewer` refuse.
    """
    viewer = Viewer(units.model, images, width, other_model, batch_size)
    values, embeddings = [], []
    for batch, found, seen in viewer.see(units.places, "values of units", progress):
        grid = units.model.embed.grid(*batch.images.shape[-2:])
        values.append(_kept(units.values(found, grid)))
        embeddings.append(_kept(F.normalize(seen, dim=1)))
    if not values:
        raise InputError("there are no pictures to name features by")
    return UnitTable(np.concatenate(values), np.concatenate(embeddings), units.labels)


def _kept(numbers: Tensor) -> np.ndarray:
    """In single precision, or in double where the model computes in it."""
    numbers = numbers.detach().cpu()
    return (numbers if numbers.dtype == torch.float64 else numbers.float()).numpy()
