"""Whether each feature is active in one region of a picture or in scattered patches, its mean over the pictures."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.features.evaluation.locality import LEAST_MAPS, LEAST_PATCHES, MOST_PATCHES, morans_i
from vitlens.features.strongest import EncodedPictures


class LocalityOfFeatures:
    """The sums of Moran's I over pictures, of maps for which it means something; most features have none in a picture."""

    def __init__(self, n_prefix_tokens: int) -> None:
        self.n_prefix_tokens = n_prefix_tokens
        self.sums: Tensor | None = None

    def add(self, some: EncodedPictures) -> None:
        patches = some.codes[:, (some.tokens >= self.n_prefix_tokens).to(some.codes.device)]
        rows, columns = some.grid
        if self.sums is None:
            self.sums = torch.zeros(patches.shape[2], dtype=torch.float64, device=patches.device)
            self.counts = torch.zeros_like(self.sums)
        if patches.shape[1] != rows * columns:
            return
        on = (patches != 0).sum(dim=1)
        images, features = ((on >= LEAST_PATCHES) & (on <= int(MOST_PATCHES * rows * columns))).nonzero(as_tuple=True)
        maps = patches.transpose(1, 2)[images, features].unflatten(-1, some.grid)
        values, mean_something = morans_i(maps if maps.dtype == torch.float64 else maps.float())
        self.sums.index_add_(0, features, values.where(mean_something, 0).double())
        self.counts.index_add_(0, features, mean_something.double())

    def of_features(self) -> Float[Tensor, "feature"]:
        """NaN of features with too few such maps, and where the tokens are not all patches."""
        assert self.sums is not None
        return (self.sums / self.counts).where(self.counts >= LEAST_MAPS, float("nan"))
