"""Absorption: classes of a group that have no features of their own, since the group's features stand for them."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from scipy import sparse

from vitlens.features.evaluation.estimates import Estimate
from vitlens.features.evaluation.image_codes import LabelledCodes
from vitlens.features.evaluation.probing import dense, fitted_probe, ranked_by_f

#: A group has at least this many classes and pictures; a class at least this many pictures, as have the others.
LEAST_CLASSES, LEAST_PICTURES, LEAST_OF_CLASS = 3, 10, 3
#: How many features with the largest means are compared.
N_COMPARED = 10
#: A class is absorbed where it shares more than this with its group, or gains more than this from further features.
MOST_SHARED, MOST_GAIN = 0.5, 0.1
#: How many features the two probes read.
NARROW, WIDE = 1, 4


def absorption(data: LabelledCodes, groups: Mapping[str, Sequence[int]], *, seed: int = 0) -> dict[str, Estimate]:
    """The share of classes that are absorbed, the mean overlap, and the mean gain; empty where no class can be tested.

    The overlap is |A ∩ B| / |A ∪ B|, A and B being the 10 features with the largest mean in the pictures of the class and
    of its group. The gain is how much the F1 of a probe that tells the class from the rest of its group grows from the best
    feature to the best 4. A class is absorbed where the overlap is above 0.5 or the gain above 0.1.
    """
    found = []
    for classes in groups.values():
        of_group = np.isin(data.labels, classes)
        if len(classes) < LEAST_CLASSES or of_group.sum() < LEAST_PICTURES:
            continue
        codes, labels = data.codes[of_group], data.labels[of_group]
        strongest = _strongest(codes)
        for number in classes:
            inside = labels == number
            if min(inside.sum(), (~inside).sum()) < LEAST_OF_CLASS:
                continue
            own = _strongest(codes[inside])
            overlap = len(own & strongest) / len(own | strongest)
            found.append((overlap, _gain(codes, inside.astype(int), seed)))
    if not found:
        return {}
    overlaps, gains = np.array(found).T
    absorbed = (overlaps > MOST_SHARED) | (gains > MOST_GAIN)
    return {
        "absorption": Estimate(float(absorbed.mean())),
        "absorption_overlap": Estimate(float(overlaps.mean())),
        "absorption_gain": Estimate(float(gains.mean())),
    }


def _strongest(codes: sparse.csr_matrix) -> set[int]:
    means = np.asarray(codes.mean(axis=0)).ravel()
    return set(np.argsort(means)[-N_COMPARED:].tolist())


def _gain(codes: sparse.csr_matrix, inside: Int[np.ndarray, "image"], seed: int) -> float:
    from sklearn.metrics import f1_score

    ranked = ranked_by_f(codes, inside)
    scores = []
    for k in (NARROW, WIDE):
        probe = fitted_probe(codes, inside, ranked[:k], seed)
        scores.append(f1_score(inside, probe.predict(dense(codes, ranked[:k])), zero_division=0.0))
    return float(scores[1] - scores[0])
