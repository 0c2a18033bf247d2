"""The list of faithfulness metrics: the curve each is computed from, whether higher is better, and its protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError, nearest
from vitlens.faithfulness.curves import (
    NOISE,
    TENTHS,
    Bench,
    ClassOutcome,
    blackening,
    deletion,
    insertion,
    road,
    token_removal,
)
from vitlens.faithfulness.localisation import patch_auroc, pointing_game
from vitlens.faithfulness.maps import MapScorer
from vitlens.faithfulness.perturbation import area
from vitlens.faithfulness.randomisation import randomisation
from vitlens.faithfulness.subsets import infidelity, saco, sensitivity_n
from vitlens.results.frames import Frame


@dataclass(frozen=True)
class Curve:
    """A curve over shares of a picture: how to run it, and what its axes mean."""

    run: Callable[[Bench, Tensor], ClassOutcome]
    shares: Callable[[Bench], list[float]]
    x: str
    quantity: str = "probability"


@dataclass(frozen=True)
class FaithfulnessMetric:
    """A number for a map of a picture: from curves, or from a function of the map.

    `scorer(bench, masks, **options)` makes that function, once for all maps.
    """

    name: str
    higher_is_better: bool
    definition: str
    curves: tuple[str, ...] = ()
    quantity: str = "probability"
    combine: Callable[..., Tensor] | None = None
    scorer: Callable[..., MapScorer] | None = None
    needs_masks: bool = False
    needs_architecture: bool = False
    #: Whether it follows the class's probability, which numbers and embeddings do not have.
    needs_probability: bool = True
    #: Whether it puts the patches in order, which a map that is the same everywhere does not.
    needs_order: bool = True

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def title(self) -> str:
        return f"{self.name} {self.arrow}"


def _patch_shares(bench: Bench) -> list[float]:
    return [count / bench.n_patches for count in bench.counts.tolist()]


def _road_shares(bench: Bench) -> list[float]:
    return [count / bench.n_patches for count in bench.road_counts.tolist()]


def _tenths(bench: Bench) -> list[float]:
    return [tenth / 10 for tenth in TENTHS]


CURVES: dict[str, Curve] = {
    "deletion": Curve(deletion, _patch_shares, "share of patches replaced"),
    "insertion": Curve(insertion, _patch_shares, "share of patches shown"),
    "positive": Curve(
        partial(token_removal, perturbation="positive"), _patch_shares, "share of tokens removed", "accuracy"
    ),
    "negative": Curve(
        partial(token_removal, perturbation="negative"), _patch_shares, "share of tokens removed", "accuracy"
    ),
    "pixel_positive": Curve(partial(blackening, most_first=True), _tenths, "share of pixels blackened", "accuracy"),
    "pixel_negative": Curve(partial(blackening, most_first=False), _tenths, "share of pixels blackened", "accuracy"),
    "road_morf": Curve(partial(road, most_first=True), _road_shares, "share of patches imputed"),
    "road_lerf": Curve(partial(road, most_first=False), _road_shares, "share of patches imputed"),
}


def _area(curve: Float[Tensor, "image step"], shares: Sequence[float]) -> Float[Tensor, "image"]:
    return area(curve, shares)


def _mean(curve: Float[Tensor, "image step"], shares: Sequence[float]) -> Float[Tensor, "image"]:
    return curve.mean(dim=1)


def _half_difference(
    lerf: Float[Tensor, "image step"], morf: Float[Tensor, "image step"], shares: Sequence[float]
) -> Float[Tensor, "image"]:
    return (lerf.mean(dim=1) - morf.mean(dim=1)) / 2


_TRAPEZOID = "area by the trapezoid rule over the share of patches, 0 % to 100 %, not rescaled"
_PIXELS = (
    "pixels set to 0 before normalisation, in the order of the map enlarged bilinearly to the picture; area of top-1 "
    "accuracy by the trapezoid rule over 0 %, 10 %, …, 90 % of the pixels (at most 0.9; published numbers are 100 times it)"
)
_REMOVAL = f"patch tokens leave the sequence after their positions were added; {_TRAPEZOID}"
_ROAD = (
    f"imputed from what is left as the weighted mean of their pixels' eight neighbours, plus noise of {NOISE}; mean "
    "probability of the class over the shares (20, 40, 60 and 80 % by default; Rong et al. 2022)"
)

_ALL = [
    FaithfulnessMetric(
        "deletion", False,
        f"Patches' pixels are replaced, most important first; probability of the class, {_TRAPEZOID} "
        "(Petsiuk et al. 2018).",
        ("deletion",), combine=_area,
    ),
    FaithfulnessMetric(
        "insertion", True,
        f"Patches' pixels are inserted into the replacement, most important first; probability of the class, "
        f"{_TRAPEZOID} (Petsiuk et al. 2018).",
        ("insertion",), combine=_area,
    ),
    FaithfulnessMetric(
        "positive", False, f"Accuracy of the class while, most important first, {_REMOVAL}.",
        ("positive",), "accuracy", _area,
    ),
    FaithfulnessMetric(
        "negative", True, f"Accuracy of the class while, least important first, {_REMOVAL}.",
        ("negative",), "accuracy", _area,
    ),
    FaithfulnessMetric(
        "positive_probability", False, f"Probability of the class while, most important first, {_REMOVAL}.",
        ("positive",), combine=_area,
    ),
    FaithfulnessMetric(
        "negative_probability", True, f"Probability of the class while, least important first, {_REMOVAL}.",
        ("negative",), combine=_area,
    ),
    FaithfulnessMetric(
        "pixel_positive", False,
        f"Chefer, Gur & Wolf 2021, positive: most important first, {_PIXELS}.",
        ("pixel_positive",), "accuracy", _area,
    ),
    FaithfulnessMetric(
        "pixel_negative", True,
        f"Chefer, Gur & Wolf 2021, negative: least important first, {_PIXELS}.",
        ("pixel_negative",), "accuracy", _area,
    ),
    FaithfulnessMetric("road_morf", False, f"The most important patches are {_ROAD}.", ("road_morf",), combine=_mean),
    FaithfulnessMetric("road_lerf", True, f"The least important patches are {_ROAD}.", ("road_lerf",), combine=_mean),
    FaithfulnessMetric(
        "road", True, "(road_lerf − road_morf) / 2, as pytorch-grad-cam combines them.",
        ("road_lerf", "road_morf"), combine=_half_difference,
    ),
    FaithfulnessMetric(
        "sensitivity_n", True,
        "Pearson's correlation of the importances' sum over n random patches with the loss of the class's probability when "
        "they are replaced, mean over n of 10, 30, 50, 70 and 90 % of the patches, 20 sets each (Ancona et al. 2018).",
        scorer=sensitivity_n,
    ),
    FaithfulnessMetric(
        "infidelity", False,
        "Squared error of the best multiple of the importances' sum over random squares of patches in saying what the "
        "class's probability loses when they are replaced, over that of a map of zeros; 50 squares (Yeh et al. 2019).",
        scorer=infidelity, needs_order=False,
    ),
    FaithfulnessMetric(
        "saco", True,
        "Patches in 10 groups by their order: over all pairs of groups, the differences of mean importance, counted "
        "negative where replacing the more important group costs less probability, over their sum "
        "(Wu et al. 2024).",
        scorer=saco,
    ),
    FaithfulnessMetric(
        "randomisation", False,
        "Size of Spearman's rank correlation with the same method's map when all weights are re-initialised "
        "(Adebayo et al. 2018).",
        scorer=randomisation, needs_architecture=True, needs_probability=False,
    ),
    FaithfulnessMetric(
        "pointing_game", True,
        "Share of pictures whose most important patch has its centre in the object, or within 15 pixels of it "
        "(Zhang et al. 2018).",
        scorer=pointing_game, needs_masks=True, needs_probability=False,
    ),
    FaithfulnessMetric(
        "patch_auroc", True,
        "How often a patch of the object is more important than another patch, ties counted as half.",
        scorer=patch_auroc, needs_masks=True, needs_probability=False, needs_order=False,
    ),
]  # fmt: skip
METRICS: dict[str, FaithfulnessMetric] = {metric.name: metric for metric in _ALL}


def find_metrics(
    names: str | Sequence[str], has_masks: bool, can_be_built_anew: bool = True
) -> list[FaithfulnessMetric]:
    """The metrics of these names; "all" are those that can be computed: some need masks, one a model with other weights.

    Raises:
        InputError: an unknown name, none at all, or a metric that needs masks where there are none.
    """
    if names == "all":
        return [
            metric
            for metric in METRICS.values()
            if (has_masks or not metric.needs_masks) and (can_be_built_anew or not metric.needs_architecture)
        ]
    chosen = list(dict.fromkeys([names] if isinstance(names, str) else names))
    if not chosen:
        raise InputError(f"name at least one metric, of {', '.join(METRICS)}")
    for name in chosen:
        if name not in METRICS:
            raise InputError(f"there is no metric {name!r}: the nearest are {nearest(name, METRICS, 3)}")
        if METRICS[name].needs_masks and not has_masks:
            raise InputError(f"{name} compares maps with where the object is: pass masks=, one mask per picture")
    return [METRICS[name] for name in chosen]


def faithfulness_metrics() -> pd.DataFrame:
    """All metrics: which way is better, whether they need masks, and their protocol.

    Examples:
        >>> import vitlens
        >>> metrics = vitlens.faithfulness.faithfulness_metrics()
        >>> print(metrics["better"].head(2))
        metric
        deletion     ↓
        insertion    ↑
        Name: better, dtype: ...
    """
    return Frame(
        {"better": metric.arrow, "needs_masks": metric.needs_masks, "definition": metric.definition}
        for metric in METRICS.values()
    ).set_index(pd.Index(list(METRICS), name="metric"))
