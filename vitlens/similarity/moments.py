"""Principal components of vectors that come in batches: exact, in float64, with a fixed sign."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError

#: A direction with less than this share of the largest variance is rounding noise.
SMALLEST_SHARE = 1e-13
#: Equal vectors differ from their mean by less than this share of it.
ROUNDING = 64 * torch.finfo(torch.float64).eps


class Moments:
    """Number, mean and scatter matrix Σ (x − mean)(x − mean)ᵀ of all vectors so far; batches join without a second pass.

    Source: Chan, Golub & LeVeque 1983 (Algorithms for Computing the Sample Variance).
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor = torch.zeros(())
        self.scatter: Tensor = torch.zeros(())

    def add(self, vectors: Float[Tensor, "vector d"]) -> None:
        if not len(vectors):
            return
        wide = vectors.double()
        mean = wide.mean(dim=0)
        centred = wide - mean
        if not self.n:
            self.mean, self.scatter = torch.zeros_like(mean), torch.zeros_like(centred.mT @ centred)
        n = self.n + len(wide)
        gap = mean - self.mean
        self.scatter = self.scatter + centred.mT @ centred + torch.outer(gap, gap) * (self.n * len(wide) / n)
        self.mean = self.mean + gap * (len(wide) / n)
        self.n = n

    def components(self, n_components: int) -> tuple[Float[Tensor, "component d"], Float[Tensor, "component"]]:
        """Directions of largest variance, and the share of all variance along each.

        A direction and its opposite are equally good: of each the one is taken whose largest entry is positive, so that
        the same vectors always give the same signs.

        Raises:
            InputError: the vectors differ in fewer directions.
        """
        if not self.scatter.isfinite().all():
            raise InputError("the vectors of these patches are NaN or infinite, and have no components")
        rank = 0
        if self.n > 1:
            variances, columns = torch.linalg.eigh(self.scatter)
            rounding = self.n * (ROUNDING * self.mean.norm()) ** 2
            rank = int((variances > torch.maximum(rounding, SMALLEST_SHARE * variances[-1])).sum())
        if n_components > rank:
            raise InputError(
                f"the {self.n} patches differ in {rank} directions, which have no {n_components} components: pass more "
                "pictures or a smaller n_components"
            )
        shares = variances.flip(0)[:n_components] / variances.clamp(min=0).sum()
        directions = columns.mT.flip(0)[:n_components]
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        return directions * largest.sign(), shares
