"""How well texts go with the pictures of a unit: soft weighted PMI, the area under the ROC curve, and what chance gives."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri, softmax
from scipy.stats import rankdata

#: How sure it is that the strongest picture belongs to a unit, and the last of those that count; no other picture does.
MOST_SURE, LEAST_SURE = 0.998, 0.97
#: What is between the ends of an interval.
LEVEL = 0.95
#: Numbers of units in pictures that are worked on at once, and texts.
VALUES_AT_ONCE, TEXTS_AT_ONCE = 2**22, 64


class SoftWpmi:
    """wpmi(t, B) = log E p(t | B) − log p(t), for pictures that belong to B by their rank r: the strongest first.

    log E p(t | B) = Σ_r log(1 + p_r (p(t | x_r) − 1)), with p(t | x) the softmax over the texts of `scale` · cosine, and p_r
    from 0.998 to 0.97 along a line of `n` ranks. log p(t) is the same of pictures drawn at random:
    Σ_r log(1 + p_r (p̄(t) − 1)), p̄ the mean over all pictures.
    """

    def __init__(self, cosines: Float[np.ndarray, "image text"], n: int, scale: float) -> None:
        self.shares = softmax(scale * cosines, axis=1)
        self.sure = np.linspace(MOST_SURE, LEAST_SURE, n)[:, None]
        mean = self.shares.mean(axis=0, dtype=np.float64)
        self.of_random = np.log1p(self.sure * (mean - 1)).cumsum(axis=0)

    def of_first(self, order: Int[np.ndarray, "image"]) -> Float[np.ndarray, "size text"]:
        """The scores of the first picture of an order, of the first two, and so on."""
        terms = np.log1p(self.sure[: len(order)] * (self.shares[order].astype(np.float64) - 1))
        return terms.cumsum(axis=0) - self.of_random[: len(order)]


class Auc:
    """How often a picture of a set has a larger cosine with the text than one that is not in it; ties count half."""

    def __init__(self, cosines: Float[np.ndarray, "image text"]) -> None:
        self.ranks = np.empty(cosines.shape)
        # To rank takes several times the memory of what is ranked: a few texts at a time.
        for text in range(0, cosines.shape[1], TEXTS_AT_ONCE):
            some = slice(text, text + TEXTS_AT_ONCE)
            self.ranks[:, some] = rankdata(cosines[:, some], axis=0)

    def of_first(self, order: Int[np.ndarray, "image"]) -> Float[np.ndarray, "size text"]:
        """As that of `SoftWpmi`."""
        n = np.arange(1, len(order) + 1)[:, None]
        return self._of_sums(self.ranks[order].cumsum(axis=0), n)

    def of_sets(self, inside: Bool[np.ndarray, "set image"]) -> Float[np.ndarray, "set text"]:
        """Of several sets; NaN of a set that is empty or has all pictures."""
        step = max(1, VALUES_AT_ONCE // inside.shape[1])
        sums = [some.astype(np.float64) @ self.ranks for some in np.split(inside, range(step, len(inside), step))]
        return self._of_sums(np.concatenate(sums), inside.sum(axis=1)[:, None])

    def _of_sums(
        self, sums: Float[np.ndarray, "set text"], n: Int[np.ndarray, "set 1"]
    ) -> Float[np.ndarray, "set text"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (sums - n * (n + 1) / 2) / (n * (len(self.ranks) - n))
        return np.where((n > 0) & (n < len(self.ranks)), found, np.nan)

    def with_intervals(
        self, inside: Bool[np.ndarray, "image"], texts: Int[np.ndarray, "chosen"]
    ) -> Float[np.ndarray, "3 chosen"]:
        """A set's areas with these texts, and the ends of their 95 % intervals over pictures, by DeLong's variance.

        Each picture of the set has the share of the others below it, each other one the share of the set below it: the
        variances of both, by their numbers, sum to that of the area. No ends where either side has fewer than two pictures.
        """
        n, n_others = int(inside.sum()), int((~inside).sum())
        ranks = self.ranks[:, texts]
        with np.errstate(invalid="ignore", divide="ignore"):
            above = (ranks[inside] - rankdata(ranks[inside], axis=0)) / n_others
            below = (ranks[~inside] - rankdata(ranks[~inside], axis=0)) / n
        found = np.full((3, len(texts)), np.nan)
        if n and n_others:
            found[:] = above.mean(axis=0)
        if min(n, n_others) < 2:
            found[1:] = np.nan
        else:
            spread = np.sqrt(above.var(axis=0, ddof=1) / n + below.var(axis=0, ddof=1) / n_others)
            found[1:] += np.stack([-spread, spread]) * ndtri((1 + LEVEL) / 2)
        return found.clip(0, 1)


def best_by_chance(
    score: SoftWpmi | Auc, sizes: Int[np.ndarray, "set"], n_images: int, n_draws: int, seed: int
) -> Float[np.ndarray, "draw set"]:
    """The best score of any text for as many pictures as each set has, drawn at random.

    The pictures of a draw are one shuffle, of which a set of n has the first n: draws are the same for all sets.
    """
    generator = np.random.default_rng(seed)
    longest, found = int(sizes.max(initial=0)), np.full((n_draws, len(sizes)), np.nan)
    has_pictures = sizes > 0
    for draw in range(n_draws):
        order = generator.permutation(n_images)[:longest]
        if longest:
            found[draw, has_pictures] = score.of_first(order).max(axis=1)[sizes[has_pictures] - 1]
    return found
