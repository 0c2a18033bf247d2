"""Keeps the strongest tokens of every feature while batches of pictures go by, in constant memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import paired_rows
from vitlens.features.places import HookPlace, read_places
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.picture_batches import PictureBatches

N_BINS = 40
#: Most features of tokens that are computed at once: 64 MiB in single precision, or one picture where it has more.
MOST_CODES = 2**24


@dataclass(frozen=True)
class EncodedPictures:
    """Some pictures of a batch and their features; `ids` are their places in the source, `tokens` those of the rows."""

    images: Float[Tensor, "image channels height width"]
    ids: Int[Tensor, "image"]
    codes: Float[Tensor, "image row feature"]
    tokens: Int[Tensor, "row"]
    grid: tuple[int, int]


def encoded_pictures(
    model: HookedViT,
    batches: PictureBatches,
    sae: SparseAutoencoder,
    source: HookPlace,
    target: HookPlace,
    tokens: TokenSet,
    what: str,
    progress: bool | None,
) -> Iterator[EncodedPictures]:
    """All pictures, a few at a time, under a bar called `what`. Heads that a dictionary reads one by one are rows each."""
    for batch in batches.with_bar(what, progress):
        found = read_places(model, batch.images, [source, target])
        grid = model.embed.grid(*batch.images.shape[-2:])
        x, _, ids = paired_rows(model, sae, source, target, found, tokens, grid)
        if x.ndim == 4:
            ids = ids.repeat_interleave(x.shape[2])
        step = max(1, MOST_CODES // (len(ids) * sae.d_sae))
        for some in torch.arange(len(x)).split(step):
            with torch.no_grad():
                codes = sae.encode(x[some[0] : some[-1] + 1]).flatten(1, -2)
            yield EncodedPictures(batch.images[some[0] : some[-1] + 1], batch.ids[some], codes, ids, grid)


class StrongestTokens:
    """The k largest activations of each feature so far, and the histogram of all."""

    def __init__(self, k: int, one_per_image: bool) -> None:
        self.k, self.one_per_image = k, one_per_image
        self.n_rows = self.n_offered = 0
        self.best: Tensor | None = None

    def add(
        self, features: Float[Tensor, "image row feature"], images: Int[Tensor, "image"], tokens: Int[Tensor, "row"]
    ) -> None:
        n_features = features.shape[2]
        if self.best is None:
            self.best = features.new_full((self.k, n_features), 0.0)
            self.images = torch.full((self.k, n_features), -1, device=features.device)
            self.tokens = torch.full_like(self.images, -1)
            self.counts = torch.zeros(n_features, N_BINS, dtype=torch.long, device=features.device)
            self.exponents = torch.full((n_features,), -1000, device=features.device)
            self.total = torch.zeros(n_features, dtype=torch.float64, device=features.device)
        n_images, n_rows = features.shape[:2]
        if self.one_per_image:
            offered, rows = features.max(dim=1)
            pictures, places = images.to(rows.device)[:, None].expand_as(rows), tokens.to(rows.device)[rows]
        else:
            offered = features.flatten(0, 1)
            pictures = images.repeat_interleave(n_rows).to(offered.device)[:, None].expand(-1, n_features)
            places = tokens.repeat(n_images).to(offered.device)[:, None].expand(-1, n_features)
        best = torch.cat([self.best, offered]).topk(self.k, dim=0)
        self.best = best.values
        self.images = torch.cat([self.images, pictures]).gather(0, best.indices)
        self.tokens = torch.cat([self.tokens, places]).gather(0, best.indices)
        rows_of_all = features.flatten(0, 1)
        self.total += rows_of_all.clamp(min=0).sum(dim=0, dtype=torch.float64)
        self.n_rows += n_images * n_rows
        self.n_offered += n_images if self.one_per_image else n_images * n_rows
        self._count(rows_of_all)

    def _count(self, features: Float[Tensor, "row feature"]) -> None:
        """Bins are 2^e wide and begin at 0: when a larger value comes, those of a feature merge, and nothing is lost."""
        largest = features.amax(dim=0).double()
        needed = torch.where(largest > 0, (largest.clamp(min=1e-290) / N_BINS).log2().floor() + 1, -1000).long()
        exponents = torch.maximum(self.exponents, needed)
        moved = torch.arange(N_BINS, device=features.device) >> (exponents - self.exponents).clamp(max=62)[:, None]
        self.counts = torch.zeros_like(self.counts).scatter_add(1, moved, self.counts)
        self.exponents = exponents
        rows, columns = (features > 0).nonzero(as_tuple=True)
        bins = (features[rows, columns].double() * torch.exp2(-exponents[columns].double())).long()
        self.counts.index_put_((columns, bins), torch.ones_like(bins), accumulate=True)
