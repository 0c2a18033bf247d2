"""Does a map point at the object? What needs a mask of it, picture by picture."""

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmap_scores.curves import Bench
from vitlens.heatmap_scores.maps import ScoredMap
from vitlens.heatmaps.pixels import sum_over_patches

Masks = Bool[Tensor, "image height width"]


def pointing_game(bench: Bench, scored: ScoredMap, masks: Masks, *, tolerance: float = 15.0) -> Float[Tensor, "image"]:
    """1 where the centre of the most important patch lies in the object or at most `tolerance` pixels from it, else 0.

    NaN for a picture without an object. Of equally important patches the first in reading order is taken.

    Raises:
        InputError: a negative tolerance.

    Source: Zhang et al. 2018 (Top-down Neural Attention by Excitation Backprop), section 4.1, with its 15 pixels.
    """
    if tolerance < 0:
        raise InputError(f"the tolerance is a distance in pixels, 0 or more, not {tolerance:g}")
    down, across = bench.model.cfg.patch_size
    first = scored.importance.argmax(dim=1)
    y = (first // bench.grid[1] + 0.5) * down - 0.5
    x = (first % bench.grid[1] + 0.5) * across - 0.5
    # A centre that lies between pixels belongs to those around it.
    reach = max(tolerance, 0.71)
    hits = [_is_near(mask, y[i], x[i], reach) for i, mask in enumerate(masks)]
    return torch.tensor(hits, dtype=torch.float64, device=masks.device)


def _is_near(mask: Bool[Tensor, "height width"], y: Tensor, x: Tensor, reach: float) -> float:
    if not mask.any():
        return float("nan")
    rows, columns = mask.nonzero(as_tuple=True)
    return float((torch.hypot(rows - y, columns - x) <= reach).any())


def patch_auroc(bench: Bench, scored: ScoredMap, masks: Masks) -> Float[Tensor, "image"]:
    """How often a patch of the object is more important than one beside it, ties counted as half: the area under the ROC.

    A patch belongs to the object where at least half of its pixels do. NaN for a picture in which all patches do, or none.
    """
    shown = sum_over_patches(bench.model, torch.ones_like(masks, dtype=torch.float64)[:, None])
    inside = sum_over_patches(bench.model, masks.double()[:, None]) >= shown / 2
    ranks = torch.from_numpy(rankdata(scored.importance.cpu().numpy(), axis=1)).to(scored.importance)
    n_inside, n_beside = inside.sum(dim=1), (~inside).sum(dim=1)
    # The Mann-Whitney statistic: of the ranks of the object's patches, what goes beyond those among themselves.
    above = (ranks * inside).sum(dim=1) - n_inside * (n_inside + 1) / 2
    return above / (n_inside * n_beside)
