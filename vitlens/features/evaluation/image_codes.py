"""The features of whole pictures with their labels: a bounded sample, kept sparse."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy import sparse

from vitlens.features.evaluation.entrants import CodedPictures

#: At most this many pictures are kept; of more, a uniform sample.
MOST_KEPT_CODES = 10_000


@dataclass(frozen=True)
class LabelledCodes:
    """The largest value of each feature in each picture, and the class of each picture."""

    codes: sparse.csr_matrix
    labels: Int[np.ndarray, "image"]


class CodeSample:
    """Draws pictures uniformly without replacement as they come; all dictionaries draw the same ones."""

    def __init__(self, seed: int = 0) -> None:
        self.kept: list[tuple[np.ndarray, np.ndarray, int]] = []
        self.n_seen = self.n_features = 0
        self._generator = np.random.default_rng(seed)

    def add(self, coded: CodedPictures) -> None:
        if coded.labels is None:
            return
        pooled = coded.pooled().detach().cpu()
        values = (pooled if pooled.dtype == torch.float64 else pooled.float()).numpy()
        self.n_features = values.shape[1]
        for row, label in zip(values, coded.labels.tolist(), strict=True):
            self.n_seen += 1
            place = len(self.kept)
            if place == MOST_KEPT_CODES:
                place = int(self._generator.random() * self.n_seen)
                if place >= MOST_KEPT_CODES:
                    continue
                del self.kept[place]
            on = row.nonzero()[0]
            self.kept.append((on, row[on], label))

    def gathered(self) -> LabelledCodes:
        """The sample as one sparse matrix."""
        ends = np.cumsum([0, *(len(on) for on, _, _ in self.kept)])
        on, values = (np.concatenate([item[i] for item in self.kept]) for i in (0, 1))
        matrix = sparse.csr_matrix((values, on, ends), shape=(len(self.kept), self.n_features))
        return LabelledCodes(matrix, np.array([label for _, _, label in self.kept]))
