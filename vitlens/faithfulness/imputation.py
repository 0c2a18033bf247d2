"""Noisy linear imputation: missing pixels filled in so that their shape does not show, as ROAD does (Rong et al. 2022)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from vitlens.errors import InputError

#: How much each of a pixel's eight neighbours counts, by the step down and to the right.
NEIGHBOURS = {(down, right): (1 / 12 if down and right else 1 / 6)
              for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right}  # fmt: skip


def impute(
    images: Float[Tensor, "image channels height width"],
    missing: Bool[Tensor, "image height width"],
    noise: Float[Tensor, "image channels height width"] | None = None,
) -> Float[Tensor, "image channels height width"]:
    """Every missing pixel as the weighted mean of its eight neighbours, x_p = Σ_q w_pq x_q / Σ_q w_pq, plus `noise`.

    w is 1/6 for the four that share a side and 1/12 for the corners; beyond the picture's edge there are none. The
    neighbours may be missing too, so this is one sparse linear system for each mask, which pictures and channels share.

    Raises:
        InputError: a picture of which nothing is left.

    Source: Rong et al. 2022 (A Consistent and Efficient Evaluation Strategy for Attribution Methods), section 4.
    """
    if missing.flatten(1).all(dim=1).any():
        raise InputError("a picture of which nothing is left cannot be imputed: keep at least one pixel")
    pixels = images.detach().double().cpu().numpy().copy()
    hidden = missing.cpu().numpy()
    alike: dict[bytes, list[int]] = {}
    for row, mask in enumerate(hidden):
        alike.setdefault(mask.tobytes(), []).append(row)
    for rows in alike.values():
        where = hidden[rows[0]]
        if where.any():
            shown = pixels[rows]
            shown[..., where] = _solved(shown, where)
            pixels[rows] = shown
    found = torch.from_numpy(pixels).to(images)
    return found if noise is None else torch.where(missing[:, None], found + noise, found)


def _solved(
    pixels: Float[np.ndarray, "image channels height width"], missing: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, "image channels unknown"]:
    """The values of the missing pixels in reading order."""
    n = int(missing.sum())
    # Unknowns by their number, −1 for a known pixel, −2 beyond the edge.
    number = np.full([side + 2 for side in missing.shape], -2)
    number[1:-1, 1:-1] = -1
    number[1:-1, 1:-1][missing] = np.arange(n)
    row, column = missing.nonzero()
    total, known = np.zeros(n), np.zeros((n, *pixels.shape[:2]))
    entries = []
    for (down, right), weight in NEIGHBOURS.items():
        neighbour = number[row + 1 + down, column + 1 + right]
        total += weight * (neighbour > -2)
        is_known, is_unknown = neighbour == -1, neighbour >= 0
        known[is_known] += weight * np.moveaxis(pixels[..., row[is_known] + down, column[is_known] + right], -1, 0)
        entries.append((np.full(int(is_unknown.sum()), -weight), is_unknown.nonzero()[0], neighbour[is_unknown]))
    entries.append((total, np.arange(n), np.arange(n)))
    values, of, to = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = csc_matrix((values, (of, to)), shape=(n, n))
    # Symmetric and positive definite: no pivoting is needed.
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.moveaxis(factors.solve(known.reshape(n, -1)).reshape(known.shape), 0, -1)
