"""Sparse probing: how well a linear classifier tells the classes from the k features that separate them best."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from scipy import sparse

from vitlens.features.evaluation.estimates import Estimate, ratios
from vitlens.features.evaluation.image_codes import LabelledCodes

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

#: How many features a probe reads.
PROBED = (1, 5, 10, 20, 50, 100)
#: The share of the pictures that probes are scored on.
TEST_SHARE = 0.2


def why_no_probes(labels: Int[np.ndarray, "image"]) -> str | None:
    """Why these pictures cannot be divided into pictures to train on and to score on, if they cannot."""
    _, counts = np.unique(labels, return_counts=True)
    if len(counts) < 2:
        return "the labels name a single class"
    if counts.min() < 2:
        return (
            "a class has a single picture, and a probe needs pictures of each class to learn from and to be scored on"
        )
    n_test = int(np.ceil(TEST_SHARE * len(labels)))
    if n_test < len(counts):
        return f"of {len(labels)} pictures {n_test} are kept to score probes on, fewer than the {len(counts)} classes"
    return None


def sparse_probing(data: LabelledCodes, *, n_features: int, seed: int = 0) -> dict[str, Estimate]:
    """The accuracy of probes of 1, 5, 10, … features on pictures that they were not trained on, and the area below it.

    Features are ranked by the F statistic of their values between the classes, on the pictures that probes are trained on.
    The area is over k, by the trapezoid rule, divided by the range of k.

    Args:
        n_features: no probe reads more than this.
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(data.labels)), test_size=TEST_SHARE, stratify=data.labels, random_state=seed
    )
    ranked = ranked_by_f(data.codes[train], data.labels[train])
    sizes = [k for k in PROBED if k <= n_features]
    right = {}
    for k in sizes:
        probe = fitted_probe(data.codes[train], data.labels[train], ranked[:k], seed)
        right[k] = (probe.predict(dense(data.codes[test], ranked[:k])) == data.labels[test]).astype(float)
    curve = np.stack([right[k] for k in sizes])
    area = np.trapezoid(curve, x=sizes, axis=0) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else curve[0]
    ones = np.ones(len(test))
    return ratios({"probing": (area, ones)} | {f"probing_{k}": (right[k], ones) for k in sizes})


def ranked_by_f(codes: sparse.csr_matrix, labels: Int[np.ndarray, "image"]) -> Int[np.ndarray, "feature"]:
    """The features from the largest F statistic down; those that never change come last."""
    from sklearn.feature_selection import f_classif

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scores, _ = f_classif(codes, labels)
    return np.argsort(np.nan_to_num(scores, nan=-np.inf))[::-1]


def fitted_probe(
    codes: sparse.csr_matrix, labels: Int[np.ndarray, "image"], features: Sequence[int] | np.ndarray, seed: int
) -> "LogisticRegression":
    """A logistic regression on some of the features."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(max_iter=500, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return probe.fit(dense(codes, features), labels)


def dense(codes: sparse.csr_matrix, features: Sequence[int] | np.ndarray) -> np.ndarray:
    return codes[:, features].toarray()
