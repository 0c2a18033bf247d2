"""Greedy text directions that explain the variance of vectors, from their covariance alone: TextSpan."""

import math
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

# A head whose variance is a smaller share than this of its mean square writes a constant: the rest is rounding.
CONSTANT = 1e-12
# A head does not write along directions to which its weights give a smaller share than this of the largest length.
RANK = 1e-6
# What is a smaller share than this of what it was is rounding.
NOTHING_LEFT = 1e-12
# Variances that differ by a smaller share are the same.
SAME = 1e-9
# And of which one was computed in single precision.
FEW_DIGITS = 1e-5
# Halvings of an interval, until rounding.
STEPS = 60
# Where the saddlepoint is no farther from 0 than this, more than a third of all directions explain as much.
NEAR_MEAN = 0.1


class Spread(NamedTuple):
    """The variance of each head's vectors along their principal directions, which span the space that the head can write.

    `held_out` is the covariance of the vectors held out along the same directions, `total` and `total_held_out` are the
    traces. Heads whose space has fewer directions than others have zeros for the rest: `is_there` says which are theirs.
    """

    basis: Float[Tensor, "head width joint"]
    is_there: Bool[Tensor, "head width"]
    variances: Float[Tensor, "head width"]
    held_out: Float[Tensor, "head width width"]
    total: Float[Tensor, "head"]
    total_held_out: Float[Tensor, "head"]


class Chosen(NamedTuple):
    """Texts in the order in which they were chosen, −1 where nothing was left to explain; the direction of each behind those
    before it, 0 where there is none; and the variance along it."""

    texts: Int[Tensor, "head rank"]
    directions: Float[Tensor, "head rank width"]
    gains: Float[Tensor, "head rank"]
    held_out: Float[Tensor, "head rank"]


def spread_of(
    maps: Float[Tensor, "head way joint"],
    mean: Float[Tensor, "head way"],
    covariance: Float[Tensor, "head way way"],
    held_out: Float[Tensor, "head way way"],
) -> Spread:
    """That of coordinates · maps, without a covariance in the joint space."""
    left, lengths, right = torch.linalg.svd(maps.double(), full_matrices=False)
    is_there = lengths > RANK * lengths[:, :1]
    into = (left * (lengths * is_there)[:, None]).mT
    inside, inside_held_out = (into @ matrix @ into.mT for matrix in (covariance, held_out))
    total, total_held_out = (matrix.diagonal(dim1=1, dim2=2).sum(dim=1) for matrix in (inside, inside_held_out))
    square = (into @ mean[..., None]).square().sum(dim=(1, 2)) + total
    is_constant = total <= CONSTANT * square
    scale = torch.where(is_constant, 1.0, total)[:, None, None]
    # No variance is −1: the directions that are not there come last.
    shares, turns = torch.linalg.eigh(inside / scale - torch.diag_embed((~is_there).double()))
    shares, turns = shares.flip(-1), turns.flip(-1)
    is_there = (shares > -0.5) & ~is_constant[:, None]
    turns = turns * is_there[:, None]
    return Spread(
        turns.mT @ right,
        is_there,
        torch.where(is_there, shares.clamp(min=0) * scale[:, 0], 0.0),
        turns.mT @ inside_held_out @ turns,
        total.masked_fill(is_constant, 0.0),
        total_held_out,
    )


def inside(spread: Spread, texts: Float[Tensor, "text joint"]) -> Float[Tensor, "head text width"]:
    """The part of each text in the space that a head can write, along its principal directions."""
    return einsum(texts, spread.basis.to(texts), "m e, h w e -> h m w")


class Rests:
    """What is left of texts behind the directions that were taken out of them.

    The rests, r − ⟨r, q⟩ q, are not kept: the variance along them, `scores`, is known from products of the texts with q and
    Σ q. The vectors themselves are not needed, for what is left of a text is orthogonal to all that was taken out of them.
    """

    def __init__(self, texts: Float[Tensor, "head text width"], variances: Float[Tensor, "head width"]) -> None:
        self._texts, self._variances = texts, variances
        squares = texts.square()
        self.scores = (squares @ variances[..., None])[..., 0]
        self.longest = squares.sum(dim=2).amax(dim=1)
        self.taken = texts.new_zeros(len(texts), 0, texts.shape[2])
        self._products = texts.new_zeros(*texts.shape[:2], 0)

    def direction(self, index: Int[Tensor, "head"]) -> tuple[Float[Tensor, "head width"], Float[Tensor, "head"]]:
        """The direction of what is left of one text of each head, and its squared length."""
        left = self._texts[torch.arange(len(index), device=index.device), index]
        for _ in range(2):  # Once more for what rounding leaves.
            left = left - ((self.taken @ left[..., None]) * self.taken).sum(dim=1)
        length = left.square().sum(dim=1)
        return left / length.sqrt().clamp(min=torch.finfo(left.dtype).tiny)[:, None], length

    def take(self, direction: Float[Tensor, "head width"]) -> None:
        """Takes a direction of each head out of its texts; zeros take nothing."""
        pulled = direction * self._variances
        new, by_variance = (self._texts @ torch.stack([direction, pulled], dim=2)).unbind(dim=2)
        by_variance = by_variance - (self._products @ (self.taken @ pulled[..., None]))[..., 0]
        gain = (direction * pulled).sum(dim=1)
        self.scores = self.scores - 2 * new * by_variance + new.square() * gain[:, None]
        self.taken = torch.cat([self.taken, direction[:, None]], dim=1)
        self._products = torch.cat([self._products, new[..., None]], dim=2)


def choose_texts(
    texts: Float[Tensor, "head text width"],
    variances: Float[Tensor, "head width"],
    held_out: Float[Tensor, "head width width"],
    k: int,
) -> Chosen:
    """Algorithm 1: the text along which the variance is largest, taken out of vectors and texts, then the next.

    Texts keep their lengths, in the head's space and behind those before: one of which little is left there is no name.
    """
    rests, total = Rests(texts, variances), variances.sum(dim=1)
    chosen, gains = [], []
    for _ in range(k):
        index = rests.scores.argmax(dim=1)
        direction, length = rests.direction(index)
        gain = (direction.square() * variances).sum(dim=1)
        ends = (length <= NOTHING_LEFT * rests.longest) | (gain <= NOTHING_LEFT * total)
        rests.take(direction.masked_fill(ends[:, None], 0.0))
        chosen.append(index.masked_fill(ends, -1))
        gains.append(gain.masked_fill(ends, 0.0))
    judged = variance_along(rests.taken, held_out)
    return Chosen(torch.stack(chosen, dim=1), rests.taken, torch.stack(gains, dim=1), judged)


def best_of_others(
    others: Float[Tensor, "head text width"],
    chosen: Chosen,
    variances: Float[Tensor, "head width"],
    held_out: Float[Tensor, "head width width"],
) -> Float[Tensor, "head rank"]:
    """In the place of each text that was chosen, behind those before it, the best of other texts: the variance along it on
    pictures held out."""
    rests, found = Rests(others, variances), []
    for taken in chosen.directions.to(others).unbind(dim=1):
        found.append(rests.direction(rests.scores.argmax(dim=1))[0])
        rests.take(taken)
    return variance_along(torch.stack(found, dim=1), held_out)


def variance_along(
    directions: Float[Tensor, "head rank width"], covariance: Float[Tensor, "head width width"]
) -> Float[Tensor, "head rank"]:
    """qᵀ Σ q of unit vectors q."""
    return einsum(directions, covariance, directions, "h r v, h v w, h r w -> h r")


def rotations(is_there: Bool[Tensor, "head width"], generator: torch.Generator) -> Float[Tensor, "head width width"]:
    """Random rotations of the directions that are there; the others stay."""
    size = is_there.shape[1]
    drawn = torch.randn(len(is_there), size, size, generator=generator, dtype=torch.float64)
    both = is_there[:, :, None] & is_there[:, None]
    alone = torch.diag_embed((~is_there).double())
    q, r = torch.linalg.qr(torch.where(both, drawn, alone))
    # Signs as the diagonal of R has them: uniform over all rotations and reflections.
    return q * r.diagonal(dim1=1, dim2=2).sign()[:, None]


def chance(chosen: Chosen, spread: Spread, n_texts: int) -> Float[Tensor, "head rank"]:
    """For each rank the chance that any text explains as much of what the earlier ones left, turned at random: at most.

    Turned: the same variances, in the same space, in directions that have nothing to do with the texts. The chance of one
    text, times the number of texts. NaN behind the last text.
    """
    alive = torch.diag_embed(spread.is_there.double())
    total = spread.total_held_out.clamp(min=torch.finfo(torch.float64).tiny)
    found = []
    for rank in range(chosen.texts.shape[1]):
        # The directions that are left have the eigenvalue 1, and those that are not 0.
        shares, vectors = torch.linalg.eigh(alive)
        vectors = vectors * (shares > 0.5)[:, None]
        held_out = vectors.mT @ (spread.held_out / total[:, None, None]) @ vectors
        # No variance is −1: the directions that are not there can be told apart.
        variances = torch.linalg.eigvalsh(held_out - torch.diag_embed((shares <= 0.5).double()))
        one = chance_of_one(chosen.held_out[:, rank] / total, variances, variances > -0.5)
        found.append((one * (n_texts - rank)).clamp(max=1.0).masked_fill(chosen.texts[:, rank] < 0, torch.nan))
        direction = chosen.directions[:, rank]
        alive = alive - direction[:, :, None] * direction[:, None]
    return torch.stack(found, dim=1)


def chance_of_one(
    value: Float[Tensor, "head"], variances: Float[Tensor, "head width"], is_there: Bool[Tensor, "head width"]
) -> Float[Tensor, "head"]:
    """P(Σ μ_i u_i² ≥ x) for a random unit vector u, by the saddlepoint s of K(s) = −½ Σ log(1 − 2 s (μ_i − x)).

    1 − Φ(w) + φ(w) (1/v − 1/w) with w = √(−2 K(s)) and v = s √K″(s): right to about a tenth, in the tail too. 1 where x is
    so near the mean that w vanishes.

    Source: Lugannani & Rice 1980 (Saddle point approximation for the distribution of the sum of independent random
    variables).
    """
    # A value that is the largest there can be may lie above it by rounding.
    excess = torch.where(is_there, variances - (value * (1 - SAME))[:, None], 0.0)
    largest = excess.amax(dim=1).clamp(min=torch.finfo(excess.dtype).tiny)
    scaled = excess / largest[:, None]
    low, high = torch.zeros_like(value), torch.full_like(value, 0.5)
    # K is convex: its slope says on which side its least value is.
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = (scaled / (1 - 2 * middle[:, None] * scaled)).sum(dim=1)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    left = 1 - 2 * low[:, None] * scaled
    w, v = left.log().sum(dim=1).clamp(min=0).sqrt(), low * (2 * (scaled / left).square().sum(dim=1)).sqrt()
    near = w < NEAR_MEAN
    w, v = (torch.where(near, 1.0, part) for part in (w, v))
    density = torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi)
    tail = torch.special.ndtr(-w) + density * (1 / v - 1 / w)
    return torch.where(near, 1.0, tail.clamp(0, 1))


def random_like(texts: Float[Tensor, "text joint"], generator: torch.Generator) -> Float[Tensor, "text joint"]:
    """As many unit vectors at random, with the texts' second moments: in their span, and as often along its directions."""
    variances, vectors = torch.linalg.eigh(texts.mT @ texts / len(texts))
    drawn = torch.randn(texts.shape, generator=generator, dtype=texts.dtype)
    # The root of what is rounding would not be.
    rows = drawn * variances.masked_fill(variances <= NOTHING_LEFT * variances.max(), 0.0).sqrt() @ vectors.mT
    return rows / rows.norm(dim=1, keepdim=True)
