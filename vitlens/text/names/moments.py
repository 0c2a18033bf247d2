"""Means and covariances of vectors that come batch by batch: memory does not grow with their number."""

import torch
from jaxtyping import Float
from torch import Tensor


class VectorMoments:
    """Sums of the vectors of each unit, and of their products, in float64."""

    def __init__(self) -> None:
        self.n = 0
        self._origin: Float[Tensor, "unit width"] | None = None
        self._sum: Float[Tensor, "unit width"] = torch.zeros(())
        self._products: Float[Tensor, "unit width width"] = torch.zeros(())

    def add(self, vectors: Float[Tensor, "row unit width"]) -> None:
        rows = vectors.detach().cpu().double()
        if not len(rows):
            return
        if self._origin is None:
            # Differences from a vector near the mean: squares of a large mean would swallow a small variance.
            self._origin = rows.mean(dim=0)
            self._sum = torch.zeros_like(self._origin)
            self._products = self._origin.new_zeros(*self._origin.shape, self._origin.shape[-1])
        rows = rows - self._origin
        self.n += len(rows)
        self._sum += rows.sum(dim=0)
        self._products.baddbmm_(rows.permute(1, 2, 0), rows.transpose(0, 1))

    @property
    def mean(self) -> Float[Tensor, "unit width"]:
        assert self._origin is not None
        return self._origin + self._sum / self.n

    @property
    def covariance(self) -> Float[Tensor, "unit width width"]:
        """Over n, not n − 1: shares of variances are the same."""
        mean = self._sum / self.n
        return self._products / self.n - mean[:, :, None] * mean[:, None]
