"""Whether a feature is on in one region of the picture or in scattered patches: Moran's I on the grid of patches."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.features.evaluation.entrants import CodedPictures
from vitlens.features.evaluation.estimates import Estimate, PictureRows
from vitlens.statistics import bootstrap_weights

#: A feature's map in a picture counts if at least this many patches are on, and at most this share of them.
LEAST_PATCHES, MOST_PATCHES = 5, 0.9
#: A feature counts if it has at least this many such maps.
LEAST_MAPS = 5
#: Pictures are gathered in this many random groups, over which the interval is drawn.
PICTURE_GROUPS = 32
N_DRAWS = 1000


def morans_i(
    maps: Float[Tensor, "*map row column"],
) -> tuple[Float[Tensor, "*map"], Bool[Tensor, "*map"]]:
    """Moran's I of each map with its eight neighbours, and which maps it means something for.

    I = (n / S) Σ_pq w_pq z_p z_q / Σ_p z_p², with z the values less their mean, w_pq = 1 for patches that touch, also at a
    corner, and S = Σ w. One region gives nearly 1, no order −1/(n − 1), a chessboard a negative number.
    """
    rows, columns = maps.shape[-2:]
    n = rows * columns
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    around = _sum_of_nine(centred) - centred
    n_neighbours = float((_sum_of_nine(maps.new_ones(1, rows, columns)) - 1).sum())
    spread = centred.square().sum(dim=(-2, -1))
    values = (n / n_neighbours) * (centred * around).sum(dim=(-2, -1)) / spread
    on = (maps != 0).sum(dim=(-2, -1))
    return values, (on >= LEAST_PATCHES) & (on <= int(MOST_PATCHES * n)) & (spread > 0)


def _sum_of_nine(maps: Float[Tensor, "*map row column"]) -> Float[Tensor, "*map row column"]:
    """At every place the sum over it and its neighbours."""
    # It refuses a tensor without maps.
    return F.avg_pool2d(maps, 3, stride=1, padding=1) * 9 if maps.numel() else maps


class Locality:
    """Sums of Moran's I over pictures, for each feature and group of pictures."""

    def __init__(self, n_prefix_tokens: int) -> None:
        self.n_prefix_tokens = n_prefix_tokens
        self.rows = PictureRows(PICTURE_GROUPS)
        self.sums: Tensor = torch.zeros(())
        self.counts: Tensor = torch.zeros(())
        self.reason: str | None = None

    def add(self, coded: CodedPictures) -> None:
        rows, columns = coded.grid
        on_grid = coded.tokens >= self.n_prefix_tokens
        where = self.rows.next(len(coded.features))
        if int(on_grid.sum()) != rows * columns:
            self.reason = "Moran's I: it needs all patches of a picture, and these tokens are not all"
        elif MOST_PATCHES * rows * columns < LEAST_PATCHES:
            self.reason = f"Moran's I: {rows} × {columns} patches are too few for it"
        if self.reason is not None:
            return
        patches = coded.features[:, on_grid.to(coded.features.device)]
        maps = patches if patches.ndim > 3 else patches[:, :, None]
        maps = maps.permute(0, 2, 3, 1).unflatten(-1, coded.grid)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        values, counts = morans_i(maps.flatten(1, 2))
        shape = (len(maps), -1, maps.shape[2])
        found = values.where(counts, 0).double().reshape(shape).sum(dim=1)
        n_found = counts.double().reshape(shape).sum(dim=1)
        if not self.sums.ndim:
            self.sums = found.new_zeros(PICTURE_GROUPS, found.shape[1])
            self.counts = torch.zeros_like(self.sums)
        group = torch.from_numpy(where).to(found.device)
        self.sums.index_add_(0, group, found)
        self.counts.index_add_(0, group, n_found)

    def of_features(self) -> Float[Tensor, "feature"] | None:
        """The mean of each feature over its maps; NaN of features with too few."""
        if self.reason is not None:
            return None
        counts = self.counts.sum(dim=0)
        return (self.sums.sum(dim=0) / counts).where(counts >= LEAST_MAPS, float("nan"))

    def estimates(self) -> dict[str, Estimate]:
        values = self.of_features()
        if values is None or values.isnan().all():
            return {}
        counted = ~values.isnan()
        used = self.rows.n_rows
        sums, counts = (x[:used, counted].cpu().numpy() for x in (self.sums, self.counts))
        drawn = []
        for weight in bootstrap_weights(used, N_DRAWS):
            there = weight @ counts
            drawn.append(np.mean((weight @ sums)[there > 0] / there[there > 0]) if (there > 0).any() else np.nan)
        ends = np.nanquantile(drawn, [0.025, 0.975]) if used > 1 else (np.nan, np.nan)
        return {"morans_i": Estimate(float(values[counted].mean()), *map(float, ends))}

    def left_out(self) -> list[str]:
        if self.reason is not None:
            return [self.reason]
        values = self.of_features()
        if values is None or not values.isnan().all():
            return []
        return [
            f"Moran's I: no feature is on in {LEAST_PATCHES} patches to {MOST_PATCHES:.0%} of them in {LEAST_MAPS} pictures"
        ]
