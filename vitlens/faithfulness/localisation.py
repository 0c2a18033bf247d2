"""Measures whether a map points at the object: the pointing game and the AUROC of patches, which need masks."""

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from vitlens.data.masks import MaskInput
from vitlens.data.patches import object_and_context
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench
from vitlens.faithfulness.maps import MapScorer, ScoredMap


def pointing_game(bench: Bench, masks: MaskInput, *, tolerance: float = 15.0) -> MapScorer:
    """1 where the centre of the most important patch lies in the object or at most `tolerance` pixels from it, else 0.

    NaN for a picture without an object, and where that centre is no hit and lies on void. Of equally important patches the
    first in reading order is taken.

    Raises:
        InputError: a negative tolerance.

    Source: Zhang et al. 2018 (Top-down Neural Attention by Excitation Backprop), section 4.1, with its 15 pixels.
    """
    if tolerance < 0:
        raise InputError(f"the tolerance is a distance in pixels, 0 or more, not {tolerance:g}")
    down, across = bench.model.cfg.patch_size
    # A centre that lies between pixels belongs to those around it.
    reach = max(tolerance, 0.71)
    read = bench.model.as_masks(masks)
    is_void = bench.model.patch_grid(*read.size).centres(read.void).flatten(1)

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        first = scored.importance.argmax(dim=1)
        y = (first // bench.grid[1] + 0.5) * down - 0.5
        x = (first % bench.grid[1] + 0.5) * across - 0.5
        hits = [_is_near(mask, y[i], x[i], reach) for i, mask in enumerate(read.inside)]
        found = torch.tensor(hits, dtype=torch.float64, device=read.inside.device)
        return found.where((found == 1) | ~is_void.gather(1, first[:, None])[:, 0], torch.nan)

    return score


def _is_near(mask: Bool[Tensor, "height width"], y: Tensor, x: Tensor, reach: float) -> float:
    if not mask.any():
        return float("nan")
    rows, columns = mask.nonzero(as_tuple=True)
    return float((torch.hypot(rows - y, columns - x) <= reach).any())


def patch_auroc(bench: Bench, masks: MaskInput) -> MapScorer:
    """How often a patch of the object is more important than one of the context, ties counted as half (area under the ROC).

    A patch belongs to the object where at least half of its pixels do; void is left out, see `object_and_context`. NaN for a
    picture without a patch of either kind.
    """
    read = bench.model.as_masks(masks)
    inside, beside = object_and_context(read.inside, read.void, bench.model.patch_grid(*read.size))

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        found = [_auroc(*parts) for parts in zip(scored.importance, inside, beside, strict=True)]
        return torch.stack(found) if found else scored.importance.new_empty(0)

    return score


def _auroc(
    importance: Float[Tensor, "patch"], inside: Bool[Tensor, "patch"], beside: Bool[Tensor, "patch"]
) -> Float[Tensor, ""]:
    judged = inside | beside
    ranks = torch.from_numpy(rankdata(importance[judged].cpu().numpy())).to(importance)
    n_inside, n_beside = inside.sum(), beside.sum()
    # The Mann-Whitney statistic: the sum of the ranks of the object's patches, minus the least that it can be.
    above = ranks[inside[judged]].sum() - n_inside * (n_inside + 1) / 2
    return above / (n_inside * n_beside)
