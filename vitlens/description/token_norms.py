"""Norms of the residual stream after each block by kind of token, and the places of outlier patches."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.description.tokens import TokenLayout, at_least_single, outlier_patches

#: Of each kind: the mean over pictures of mean and median within a picture, and the largest norm of all pictures.
STATISTICS = ("mean", "median", "max")
#: The share of patches is counted in bins of norm / median, equally wide on a logarithmic scale.
BIN_EDGES = torch.logspace(-1, 2, 61, dtype=torch.float64)


@dataclass
class NormSums:
    """Running sums over pictures: `add` the norms of a batch, then read `statistics` and the counts."""

    layout: TokenLayout
    n_blocks: int
    outlier_threshold: float
    late_block: int
    n_images: int = 0
    means: Float[Tensor, "block kind statistic"] = field(init=False)
    largest: Float[Tensor, "block kind"] = field(init=False)
    counts: Int[Tensor, "block patch"] = field(init=False)
    already: Int[Tensor, "block"] = field(init=False)
    histogram: Int[Tensor, "block bin"] = field(init=False)

    def __post_init__(self) -> None:
        n_kinds, n_patches = len(self.layout.kinds), self.layout.grid[0] * self.layout.grid[1]
        self.means = torch.zeros(self.n_blocks, n_kinds, 2, dtype=torch.float64)
        self.largest = torch.zeros(self.n_blocks, n_kinds, dtype=torch.float64)
        self.counts = torch.zeros(self.n_blocks, n_patches, dtype=torch.long)
        self.already = torch.zeros(self.n_blocks, dtype=torch.long)
        self.histogram = torch.zeros(self.n_blocks, len(BIN_EDGES) + 1, dtype=torch.long)

    def add(self, norms: Float[Tensor, "image block tokens"]) -> None:
        """The norms of every token of a batch behind every block."""
        norms = norms.detach().cpu().double()
        self.n_images += len(norms)
        for i, kind in enumerate(self.layout.kinds):
            of_kind = norms[..., self.layout.of_kind(kind).cpu()]
            self.means[:, i, 0] += of_kind.mean(dim=-1).sum(dim=0)
            self.means[:, i, 1] += of_kind.median(dim=-1).values.sum(dim=0)
            self.largest[:, i] = torch.maximum(self.largest[:, i], of_kind.amax(dim=(0, 2)))
        patches = norms[..., self.layout.n_prefix :]
        outlier = outlier_patches(patches, self.outlier_threshold)
        self.counts += outlier.sum(dim=0)
        self.already += (outlier & outlier[:, self.late_block, None]).sum(dim=(0, 2))
        ratio = patches / patches.median(dim=-1, keepdim=True).values
        bins = torch.bucketize(ratio, BIN_EDGES, right=True)
        for block in range(self.n_blocks):
            self.histogram[block] += torch.bincount(bins[:, block].flatten(), minlength=len(BIN_EDGES) + 1)

    def statistics(self) -> Float[Tensor, "block kind statistic"]:
        return torch.cat([self.means / self.n_images, self.largest[..., None]], dim=-1)

    def first_block(self) -> int | None:
        """The first block behind which at least half of the late block's outliers are outliers."""
        n_late = int(self.already[self.late_block])
        return int((2 * self.already >= n_late).nonzero()[0]) if n_late else None


def stream_norms(resid: Float[Tensor, "image tokens d"]) -> Float[Tensor, "image tokens"]:
    return at_least_single(resid).norm(dim=-1)


def stream_outliers(
    resid: Float[Tensor, "image tokens d"], n_prefix: int, outlier_threshold: float
) -> Bool[Tensor, "image patch"]:
    """The outliers among the patches of a stream."""
    return outlier_patches(stream_norms(resid[:, n_prefix:]), outlier_threshold)
