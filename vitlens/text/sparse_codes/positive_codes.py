"""Vectors as sums of few others with positive weights: the lasso with w ≥ 0, solved exactly."""

import warnings

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, lars_path

#: How far from the conditions of optimality a solution may be, in cosines.
OFF_OPTIMUM = 1e-7
#: Weights below this are rounding.
ROUNDING_OF_WEIGHTS = 1e-12
#: Steps of coordinate descent, where the path of least angles ends early.
MOST_STEPS = 100_000


def positive_code(
    words: Float[np.ndarray, "word d"], target: Float[np.ndarray, "d"], sparsity: float
) -> Float[np.ndarray, "word"]:
    """The weights w ≥ 0 that make ‖Σ w_j c_j − z‖² + 2 λ Σ w_j least."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, _, code = lars_path(
            words.T, target, method="lasso", positive=True, alpha_min=sparsity / len(target),
            max_iter=8 * words.shape[0], return_path=False,
        )  # fmt: skip
        if off_optimum(words, target, code, sparsity) > OFF_OPTIMUM:
            # Words that are nearly sums of others: least angles drop them, and coordinate descent takes its time.
            model = Lasso(sparsity / len(target), fit_intercept=False, positive=True, max_iter=MOST_STEPS, tol=1e-14)
            code = model.fit(words.T, target).coef_
    return np.where(code > ROUNDING_OF_WEIGHTS, code, 0.0)


def off_optimum(
    words: Float[np.ndarray, "word d"], target: Float[np.ndarray, "d"], code: Float[np.ndarray, "word"], sparsity: float
) -> float:
    """How much the cosine of a word with what is left exceeds λ, or differs from it where the word is used."""
    left = words @ (target - code @ words) - sparsity
    return float(np.where(code > 0, np.abs(left), left).max(initial=0.0))


def code_of_size(
    words: Float[np.ndarray, "word d"], target: Float[np.ndarray, "d"], n: int
) -> Float[np.ndarray, "word"]:
    """The weights where the path of least angles, from a large λ down, has used n words longest."""
    if not n:
        return np.zeros(len(words))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Words may leave the path again: beyond some steps more than n it is cut off.
        _, _, path = lars_path(words.T, target, method="lasso", positive=True, max_iter=2 * n + 8)
    sizes = (path > ROUNDING_OF_WEIGHTS).sum(axis=0)
    return path[:, np.flatnonzero(sizes <= n)[-1]]


def cosine_of(one: Float[np.ndarray, "d"], other: Float[np.ndarray, "d"]) -> float:
    """NaN where one of them is zero."""
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths > 0 else float("nan")


def random_turn(d: int, generator: np.random.Generator) -> Float[np.ndarray, "{d} {d}"]:
    """A rotation, perhaps with a reflection, uniform over all of them."""
    q, r = np.linalg.qr(generator.normal(size=(d, d)))
    return q * np.sign(np.diag(r))
