"""The results of comparing patches: principal components, nearest patches, similarity to a chosen patch."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from vitlens.arguments import check_count
from vitlens.errors import InputError
from vitlens.model.runs.picture_run import check_index
from vitlens.results.result import Result

#: A colour channel goes from the first to the last of these percentiles, over all pictures.
PERCENTILES = (1, 99)
Place = tuple[int, int]


@dataclass(frozen=True, repr=False)
class PatchPCA(Result):
    """Principal components of patches: `values` [image, patch, principal_component] are the patches' scores, NaN where a
    patch was left out.

    score = (vector − `mean`) · direction, with `directions` [component, d] of length 1; `variance_shares` are the shares of
    the variance of all patches that were not left out. `outliers` and `background` [image, patch] were left out.
    """

    directions: Float[Tensor, "component d"]
    mean: Float[Tensor, "d"]
    variance_shares: Float[Tensor, "component"]
    outliers: Bool[Tensor, "image patch"]
    background: Bool[Tensor, "image patch"]
    grid: tuple[int, int] | list[int]

    def maps(self) -> Float[Tensor, "image component row column"]:
        """The scores on the grid of patches."""
        return self.values.movedim(-1, 1).unflatten(-1, tuple(self.grid))

    def colours(self, components: tuple[int, int, int] = (0, 1, 2)) -> Float[Tensor, "image row column 3"]:
        """Three components as red, green and blue between 0 and 1, NaN where a patch was left out.

        Each channel goes from the 1st to the 99th percentile of its component, over all pictures together.

        Raises:
            InputError: fewer than three components, or one that does not exist.
        """
        n = self.values.shape[-1]
        if n < 3:
            raise InputError(
                f"colours need three components, and this result has {n}: call patch_pca with n_components=3, or "
                'plot("components")'
            )
        if not isinstance(components, (tuple, list)) or len(components) != 3:
            raise InputError(f"components are three numbers, for red, green and blue, not {components!r}")
        for component in components:
            check_index(component, n, "component")
        return as_channels(self.values[..., list(components)]).unflatten(1, tuple(self.grid))


def as_channels(scores: Float[Tensor, "*patch component"]) -> Float[Tensor, "*patch component"]:
    """Scores as shares of the way from the first to the last percentile of each component, NaN where there is none."""
    wide = scores.double().cpu()
    # torch.quantile ends at 16 million numbers.
    low, high = torch.from_numpy(np.nanpercentile(wide.flatten(0, -2).numpy(), PERCENTILES, axis=0))
    shares = (wide - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    return shares.clamp(0, 1).float()


@dataclass(frozen=True, repr=False)
class NearestPatches(Result):
    """For each patch the nearest one of another picture: `values` [image, patch] is their similarity, `nearest` the number
    of the other patch, counted row by row; NaN and −1 at outliers.

    `nearest_back` and `values_back` [image, other patch] say the same of the patches of the other picture.
    """

    nearest: Int[Tensor, "image patch"]
    nearest_back: Int[Tensor, "image other"]
    values_back: Float[Tensor, "image other"]
    grid: tuple[int, int] | list[int]
    other_grid: tuple[int, int] | list[int]
    other_pixels: UInt8[Tensor, "picture other_height other_width 3"] | None = None

    @property
    def mutual(self) -> Bool[Tensor, "image patch"]:
        """Whether the patch is also the nearest one of its nearest one."""
        there = self.nearest_back.gather(1, self.nearest.clamp(min=0))
        own = torch.arange(self.nearest.shape[1], device=there.device)
        return (there == own) & (self.nearest >= 0)

    def columns(self) -> dict[str, Tensor]:
        found, columns = self.nearest >= 0, self.other_grid[1]
        return {
            "similarity": self.values,
            "nearest_row": torch.where(found, self.nearest // columns, -1),
            "nearest_column": torch.where(found, self.nearest % columns, -1),
            "mutual": self.mutual,
        }

    def pairs(self, image: int = 0, k: int | None = None, mutual: bool = True) -> list[tuple[Place, Place, float]]:
        """(patch, patch of the other picture, similarity), most alike first; places are (row, column).

        Args:
            k: how many, by default all.
            mutual: only patches that are nearest to one another.

        Raises:
            InputError: a picture that does not exist.
        """
        check_index(image, len(self.values), "picture")
        if k is not None:
            check_count(k, "k")
        chosen = (self.mutual if mutual else self.nearest >= 0)[image].nonzero()[:, 0]
        order = chosen[self.values[image, chosen].argsort(descending=True, stable=True)][:k].tolist()
        return [
            (
                divmod(patch, self.grid[1]),
                divmod(int(self.nearest[image, patch]), self.other_grid[1]),
                float(self.values[image, patch]),
            )
            for patch in order
        ]


@dataclass(frozen=True, repr=False)
class PatchSimilarity(Result):
    """How like the queries each patch is: `values` [image, patch], with several queries the mean of their similarities.

    `queries` [image, token] are tokens of the same picture; where other pictures were compared, they are tokens of
    `images`, whose grid is `query_grid` and whose pixels are `query_pixels`. `outliers` [image, patch] are like one another
    everywhere.
    """

    queries: Bool[Tensor, "image token"]
    outliers: Bool[Tensor, "image patch"]
    grid: tuple[int, int] | list[int]
    query_grid: tuple[int, int] | list[int]
    query_pixels: UInt8[Tensor, "picture query_height query_width 3"] | None = None

    def maps(self) -> Float[Tensor, "image row column"]:
        """The similarities on the grid of patches."""
        return self.values.unflatten(-1, tuple(self.grid))
