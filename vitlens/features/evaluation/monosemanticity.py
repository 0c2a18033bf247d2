"""Whether the pictures that a feature is on in are alike: the monosemanticity score."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vitlens.features.evaluation.entrants import CodedPictures
from vitlens.features.evaluation.estimates import Estimate

#: A feature counts if pairs of different pictures have more than this share of the weight of all pairs.
LEAST_WEIGHT = 1e-9


class Likeness:
    """Sums over pictures from which the score over all pairs follows, without any pair being looked at.

    With w_a ≥ 0 the value of the feature in picture a less its smallest value, and unit vectors e_a, the score is
    Σ_{a≠b} w_a w_b ⟨e_a, e_b⟩ / Σ_{a≠b} w_a w_b = (‖Σ w_a e_a‖² − Σ w_a²) / ((Σ w_a)² − Σ w_a²). Dividing w by its largest
    value, as the paper does, changes nothing.
    """

    def __init__(self) -> None:
        self.n_pictures = 0
        self.least: Tensor = torch.zeros(())
        self.first: Tensor = torch.zeros(())
        self.second: Tensor = torch.zeros(())
        self.with_vectors: Tensor = torch.zeros(())
        self.vectors: Tensor = torch.zeros(())

    def add(self, values: Float[Tensor, "image feature"], vectors: Float[Tensor, "image e"]) -> None:
        """Adds pictures: the values of the features, and what says how alike the pictures are."""
        values, unit = values.double(), F.normalize(vectors.double(), dim=-1).to(values.device)
        least = values.amin(dim=0)
        self.least = torch.minimum(self.least, least) if self.n_pictures else least
        self.first = self.first + values.sum(dim=0)
        self.second = self.second + values.square().sum(dim=0)
        self.with_vectors = _wider(self.with_vectors, unit) + values.T @ unit
        self.vectors = _wider(self.vectors, unit) + unit.sum(dim=0)
        self.n_pictures += len(values)

    def of_features(self) -> Float[Tensor, "feature"]:
        """The score of each feature; NaN of those that are on in fewer than two pictures."""
        n, least = self.n_pictures, self.least
        weighted = self.with_vectors - least[:, None] * self.vectors
        own = self.second - 2 * least * self.first + n * least.square()
        total = (self.first - n * least).square()
        pairs = total - own
        scores = (weighted.square().sum(dim=1) - own) / pairs
        return scores.where(pairs > LEAST_WEIGHT * total, float("nan"))

    def of_any_pair(self) -> float:
        """The score of a feature that is on everywhere alike: the mean over all pairs of pictures."""
        n = self.n_pictures
        return (float(self.vectors.square().sum()) - n) / (n * n - n)


def _wider(sums: Tensor, like: Tensor) -> Tensor:
    """Sums of vectors, with zeros where new vectors are longer: classes that had not come before."""
    return F.pad(sums, (0, like.shape[-1] - sums.shape[-1])) if sums.ndim else sums.to(like)


class Monosemanticity:
    """The score by a second model's embeddings, and by the classes of the pictures, where these are known."""

    def __init__(self) -> None:
        self.by_model, self.by_class = Likeness(), Likeness()

    def add(self, coded: CodedPictures) -> None:
        values = coded.pooled()
        if coded.embeddings is not None:
            self.by_model.add(values, coded.embeddings)
        if coded.labels is not None:
            width = max(int(coded.labels.max()) + 1, self.by_class.vectors.shape[-1] if self.by_class.n_pictures else 0)
            self.by_class.add(values, F.one_hot(coded.labels, width).double())

    def of_features(self) -> Float[Tensor, "feature"] | None:
        """By the second model where there is one, else by the classes."""
        likeness = self.by_model if self.by_model.n_pictures > 1 else self.by_class
        return likeness.of_features() if likeness.n_pictures > 1 else None

    def estimates(self) -> dict[str, Estimate]:
        found = {}
        for name, likeness in (("monosemanticity", self.by_model), ("class_monosemanticity", self.by_class)):
            if likeness.n_pictures > 1:
                scores = likeness.of_features()
                if not scores.isnan().all():
                    found[name] = Estimate(float(scores[~scores.isnan()].mean()))
                    found[f"{name}_of_any_pair"] = Estimate(likeness.of_any_pair())
        return found
