"""All that the page shows of one picture, measured; what a model does not have is left out, with the reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitlens.errors import InputError
from vitlens.heatmaps.run import Heatmap
from vitlens.heatmaps.shared.precision import require_finite_logits
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.gradients import gradients_disabled, outside_inference
from vitlens.pages.explorer.measure.activations import activation_tensors
from vitlens.pages.explorer.measure.attribution import attribution_of_all, attribution_tensors, neuron_tensors
from vitlens.pages.explorer.measure.causes import effect_tensors, swap_tensors
from vitlens.pages.explorer.measure.evidence import heatmap_tensors, heatmaps_of, outlier_tensors, removal_tensors
from vitlens.pages.explorer.measure.features import Dictionary, feature_tensors
from vitlens.pages.explorer.measure.lens import choose_classes, lens_tensors, reading_of_all
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.plots.shared.picture import picture_uri

#: Most numbers that a page holds of heads, MLPs and readings for all classes of the model.
MOST_OF_ALL_CLASSES = 2_000_000


@dataclass(frozen=True)
class Settings:
    """What is measured of every picture: these blocks, at least `n_classes` classes, with at most `n_runs` removals; the
    features of a dictionary, and what the parts of another picture do in their place, where they are given."""

    blocks: list[int]
    n_classes: int
    n_runs: int
    dictionary: Dictionary | None = None
    other: Float[Tensor, "1 channels height width"] | None = None

    def holds_all_classes(self, model: HookedViT) -> bool:
        size = len(self.blocks) * (model.cfg.n_heads + 2) * model.cfg.n_classes
        return model.cfg.n_classes > 1 and size <= MOST_OF_ALL_CLASSES


@dataclass(frozen=True)
class Measured:
    """`tensors` by name, as the page's scripts read them, and `facts`: what else there is to say, as JSON can keep it.

    B blocks, H heads, P patches, T tokens, C classes in detail, K classes of the model, k top classes:
    pattern [B, H, T, T] codes and pattern_scale [B, H, T]; cosines [B, T (T + 1) / 2] codes; outliers [P], the artefact
    tokens; answer_logits [K].
    shares [C, B, H, T] codes with shares_scale [C, B, H], heads [C, B, H] and mlps [C, B] of the logits [C]; groups [C, 4]
    of what heads did not write; residuals [C]. neurons and neuron_writes [C, B, n], the strongest of each MLP.
    lens_logit, lens_rank, lens_probability [B, T, C], and the same as the model reads, reading_… [B, C];
    top_classes, top_logits, top_probabilities [B, T, k]. Ranks,
    probabilities and top classes are there as far as the model's outputs have them.
    all_reading [B, K], all_heads [B, H, K], all_mlps [B, K] codes, each with the scale of its rows, of all classes.
    effect_logits [N, C], effect_lse [N] (log Σ exp of all logits) and effect_top [N] (the first class) without cell n: P
    patches, B · H heads, B MLPs; NaN and −1 where the effect is estimated. swap_logits, swap_lse, swap_top: the same with
    cell n taken from another picture, whose logits are swap_source [C].
    feature_ids [F] of a dictionary, with their activations feature_maps [F, T] in codes, feature_maps_scale [F],
    feature_writes [C, F], and feature_costs [C, F], what the logit loses without each.
    heatmap [M, P] of the first class; removal_steps [S], and removal_curves [M + R, S] in the order of the maps and then of
    R random orders. Of all N pictures together: colours [B, P, 3], colour_shares [B, 3] of the variance; nearest [N, B, P],
    the patch of each picture that is nearest to a patch (−1: none), and its nearest_cosine [N, B, P] in codes.

    `stream` is that of the patches after each block; the page does not hold it.
    """

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]
    stream: Float[Tensor, "block patch d"]


@gradients_disabled()
def measure_picture(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    name: str,
    wanted: Sequence[int],
    settings: Settings,
) -> Measured:
    """Measures one picture for the given classes and the top ones.

    Raises:
        InputError: logits that are not finite.
    """
    image = outside_inference(image)
    classes = _classes(model, image, wanted, settings.n_classes)
    measuring = _Measuring(model, image, classes, settings)
    measuring.run()
    pixels = model.to_pixels(image)[0]
    facts = {
        "name": name,
        "uri": picture_uri(pixels),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "classes": classes,
        "output": model.cfg.output,
        **measuring.facts,
    }
    return Measured(facts, measuring.tensors, measuring.stream)


def _classes(model: HookedViT, image: Tensor, wanted: Sequence[int], n_classes: int) -> list[int]:
    if model.predicts and model.cfg.n_classes > 1:
        return choose_classes(model, image, wanted, n_classes)
    if model.cfg.output == "embedding":
        return list(wanted)
    # No output is predicted before another: the first ones are as good as any.
    return list(dict.fromkeys([*wanted, *range(model.cfg.n_classes)]))[: max(n_classes, len(set(wanted)))]


class _Measuring:
    """One part after another; `missing` says why there is no such part."""

    def __init__(self, model: HookedViT, image: Tensor, classes: list[int], settings: Settings) -> None:
        self.model, self.image, self.classes, self.settings = model, image, classes, settings
        self.tensors: dict[str, np.ndarray] = {}
        self.missing: dict[str, str] = {}
        self.facts: dict[str, Any] = {
            "heatmaps": [],
            "effects": None,
            "swap": None,
            "warnings": [],
            "missing": self.missing,
        }

    def run(self) -> None:
        model, image, classes, blocks = self.model, self.image, self.classes, self.settings.blocks
        activations, stream = activation_tensors(model, image, blocks)
        self.tensors |= activations | outlier_tensors(model, image)
        self.stream = stream[:, model.cfg.n_prefix_tokens :]
        found = self._heatmaps()
        self._try("feature", self._features)
        if not classes:
            self._try("answer", self._no_class)
            return
        logits = model(image)
        require_finite_logits(model, logits)
        self.tensors["answer_logits"] = as_numpy(logits[0])
        self._try("lens", lambda: lens_tensors(model, image, classes, blocks))
        self._try("attribution", lambda: attribution_tensors(model, image, classes, blocks))
        self._try("neurons", lambda: neuron_tensors(model, image, classes, blocks))
        self._try("effects", self._effects)
        self._try("swap", self._swap)
        self._try("removal", lambda: removal_tensors(model, image, classes[0], found))
        if self.settings.holds_all_classes(model):
            self._try("lens", lambda: reading_of_all(model, image, blocks))
            self._try("attribution", lambda: attribution_of_all(model, image, blocks))

    def _no_class(self) -> dict[str, np.ndarray]:
        self.model.require_prediction()
        return {}

    def _heatmaps(self) -> list[Heatmap]:
        found: list[Heatmap] = []

        def measure() -> dict[str, np.ndarray]:
            found.extend(heatmaps_of(self.model, self.image, self.classes[0] if self.classes else None))
            tensors, self.facts["heatmaps"] = heatmap_tensors(found)
            return tensors

        self._try("heatmap", measure)
        self.facts["warnings"] += [
            f"{each.method.title}: {sentence}" for each in found for sentence in each.warnings or [] if sentence
        ]
        return found

    def _effects(self) -> dict[str, np.ndarray]:
        tensors, self.facts["effects"] = effect_tensors(
            self.model, self.image, self.classes, self.settings.blocks, self.settings.n_runs
        )
        return tensors

    def _swap(self) -> dict[str, np.ndarray]:
        if self.settings.other is None:
            return {}
        about = self.model, self.image, self.settings.other, self.classes, self.settings.blocks, self.settings.n_runs
        tensors, self.facts["swap"] = swap_tensors(*about)
        return tensors

    def _features(self) -> dict[str, np.ndarray]:
        if self.settings.dictionary is None:
            return {}
        return feature_tensors(self.model, self.image, self.classes, self.settings.dictionary)

    def _try(self, part: str, measure: Callable[[], dict[str, np.ndarray]]) -> None:
        """A part that the model refuses costs only itself."""
        try:
            self.tensors |= measure()
        except InputError as refusal:
            self.missing[part] = str(refusal)


def check_page_size(model: HookedViT, n_pictures: int, n_tokens: int, n_blocks: int, most: int) -> None:
    """Raises InputError where no browser could open the page: a byte for every attention weight is what counts."""
    size = n_pictures * n_blocks * model.cfg.n_heads * n_tokens**2
    if size > most:
        raise InputError(
            f"{n_pictures} pictures × {n_blocks} blocks × {model.cfg.n_heads} heads × {n_tokens}² attention weights are "
            f"{size / 2**20:.0f} MiB, more than the {most / 2**20:.0f} MiB that a browser opens well: pass fewer pictures, "
            "or blocks= with some of the blocks"
        )
