"""All that a page of features holds: facts as JSON can keep them, numbers as tensors, and crops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.provenance import page_facts
from vitlens.pages.dictionary.measure.doses import logits_at_doses
from vitlens.pages.dictionary.measure.one_pass import OnePass, ShownPicture
from vitlens.pages.dictionary.measure.place import DictionaryInPlace
from vitlens.pages.dictionary.measure.shown import active_tensors, attribution_of_shown
from vitlens.pages.dictionary.measure.weights import class_effects, nearest_directions
from vitlens.pages.explorer.facts import names_of_classes, top_classes
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.pages.explorer.sentences.subject import probabilities_of
from vitlens.pages.page import made
from vitlens.plots.shared.picture import picture_uri
from vitlens.plots.shared.places import hook_in_words

#: Examples from weak to strong: at these quantiles of the pictures in which a feature is active.
LEVELS = (0.9, 0.7, 0.5, 0.3, 0.1)
#: Classes whose logits the page has at every dose.
N_STEERED_CLASSES = 10


@dataclass(frozen=True)
class Steering:
    """Which features are steered in each shown picture (None: those that matter most in it), and at which doses."""

    features: Sequence[int] | None
    doses: Sequence[float]
    n_features: int


@dataclass(frozen=True)
class MeasuredFeatures:
    """`tensors` by name, as the page's scripts read them; `crops` are pictures as text, in the order of `crop_numbers`.

    F features, R ranks, L levels, B bins, N shown pictures, T tokens:
    top_images, top_tokens, top_values [F, R], the strongest pictures (−1: none); level_… [F, L] the same at each level;
    counts [F, B] with bin_width [F], the histogram of what is above 0; n_active [F] pictures; locality [F],
    Moran's I.
    near_ids, near_cosines [F, n]; class_ids, class_values [F, 2 n]: raised most, strongest first, then lowered most.
    active_ends [N T], active_features, active_values: what is active at each token of the shown pictures, strongest first.
    worth [N, F], the share of each feature in the logit of the picture's predicted class.
    doses_i [f, D, C], logits of picture i's classes, and doses_rest_i [f, D], log Σ exp of all logits.
    """

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]
    crops: list[str]
    images: list[Float[Tensor, "1 channels height width"]]


@torch.no_grad()
def measured_features(
    model: HookedViT, found: OnePass, place: DictionaryInPlace, steering: Steering, names: Mapping[int, str]
) -> MeasuredFeatures:
    """What one pass has found, what the weights say, and what the features do in the pictures that are shown."""
    assert found.grid is not None
    numbers, crops = found.crops.packed()
    n_tokens = model.cfg.n_prefix_tokens + found.grid[0] * found.grid[1]
    active, most = active_tensors(found.shown, n_tokens)
    tensors = _of_all_pictures(found) | _of_weights(model, place) | active
    tensors["crop_numbers"] = np.array(numbers, dtype=np.int32)
    missing: dict[str, str] = {}
    logits = [
        as_numpy(model(picture.image)[0]) if model.unembed is not None else np.zeros(0) for picture in found.shown
    ]
    pictures = [
        _picture_facts(model, picture, answer, names) for picture, answer in zip(found.shown, logits, strict=True)
    ]
    if model.unembed is not None and model.predicts and found.shown:
        tensors["worth"], classes = attribution_of_shown(model, found.shown, place)
        for facts, wanted in zip(pictures, classes.tolist(), strict=True):
            facts["class"] = wanted
    if model.unembed is None:
        missing["doses"] = "the model has no classifier, so there is no answer that a dose could change"
    else:
        for i, picture in enumerate(found.shown):
            steered, pictures[i]["doses"] = _steered(model, picture, place, steering, i, tensors.get("worth"))
            tensors |= steered
    named = {int(index) for index in np.unique(tensors["class_ids"])}
    named |= {index for facts in pictures for index in (facts["doses"] or {"classes": []})["classes"]}
    named |= {index for facts in pictures for index, _ in facts["answer"]}
    facts = {
        "title": f"{place.sae.d_sae:,} features {hook_in_words(place.target.name)}".rstrip(),
        "model": model.cfg.model_name,
        "provenance": page_facts(model),
        "warning": model.provenance.warning,
        "call": model.provenance.call,
        "made": made(),
        "grid": list(found.grid),
        "prefix": list(model.cfg.prefix_tokens),
        "output": model.cfg.output,
        "class_names": names_of_classes(model, named),
        "dictionary": place.facts(),
        "n_images": found.n_images,
        "n_tokens": found.strongest.n_rows,
        "names": {str(number): names[number] for number in numbers if number in names},
        "pictures": pictures,
        "doses": list(steering.doses),
        "levels": list(LEVELS),
        "kept_per_token": most,
        "missing": missing,
    }
    return MeasuredFeatures(facts, tensors, crops, [picture.image for picture in found.shown])


def _of_all_pictures(found: OnePass) -> dict[str, np.ndarray]:
    tops, sampled = found.strongest, found.sampled
    assert tops.best is not None
    examples = {"top": (tops.images, tops.tokens, tops.best), "level": sampled.at_levels(LEVELS)}
    tensors = {
        "counts": tops.counts.cpu().numpy().astype(np.int32),
        "bin_width": torch.exp2(tops.exponents.double()).float().cpu().numpy(),
        "locality": as_numpy(found.locality.of_features()),
        "n_active": sampled.n_active.cpu().numpy().astype(np.int32),
    }
    for name, (images, tokens, values) in examples.items():
        is_active = (values > 0) & (images >= 0)
        for kind, each in (("images", images), ("tokens", tokens)):
            tensors[f"{name}_{kind}"] = torch.where(is_active, each, -1).T.cpu().numpy().astype(np.int32)
        tensors[f"{name}_values"] = as_numpy(torch.where(is_active, values, 0).T)
    return tensors


def _of_weights(model: HookedViT, place: DictionaryInPlace) -> dict[str, np.ndarray]:
    near, cosines = nearest_directions(place.sae)
    classes, effects = class_effects(model, place.target, place.sae)
    return {
        "near_ids": near.numpy().astype(np.int32),
        "near_cosines": as_numpy(cosines),
        "class_ids": classes.cpu().numpy().astype(np.int32),
        "class_values": as_numpy(effects),
    }


def _picture_facts(
    model: HookedViT, picture: ShownPicture, logits: Float[np.ndarray, "class"], names: Mapping[int, str]
) -> dict[str, Any]:
    pixels = model.to_pixels(picture.image)[0]
    return {
        "number": picture.number,
        "name": names.get(picture.number, f"picture {picture.number}"),
        "uri": picture_uri(pixels),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "answer": top_classes(logits, model.cfg.output),
        "class": None,
        "doses": None,
    }


def _steered(
    model: HookedViT,
    picture: ShownPicture,
    place: DictionaryInPlace,
    steering: Steering,
    i: int,
    worth: Float[np.ndarray, "picture feature"] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """The logits of the leading classes of picture `i` at each dose of each feature, and which features and classes."""
    features = steering.features or _worth_steering(picture, place.sae.d_sae, steering.n_features, worth, i)
    if not features:
        return {}, None
    logits = logits_at_doses(model, picture.image, place, features, steering.doses)
    most = as_numpy(logits.flatten(0, 1).amax(dim=0))
    shares = probabilities_of(as_numpy(logits).reshape(-1, logits.shape[-1]), model.cfg.output)
    ranking = np.argsort(-(shares.max(axis=0) if model.predicts else most), kind="stable")
    classes = (
        sorted(ranking[:N_STEERED_CLASSES].tolist()) if not model.predicts else ranking[:N_STEERED_CLASSES].tolist()
    )
    tensors = {
        f"doses_{i}": as_numpy(logits[..., classes]),
        f"doses_rest_{i}": as_numpy(logits.double().logsumexp(dim=-1)),
    }
    return tensors, {"features": list(features), "classes": classes}


def _worth_steering(
    picture: ShownPicture, d_sae: int, n: int, worth: Float[np.ndarray, "picture feature"] | None, i: int
) -> list[int]:
    """Features that are active in the picture: half of them those that are worth most to its answer, then the strongest."""
    peaks = torch.zeros(d_sae).scatter_reduce_(0, picture.features, picture.values.float(), "amax")
    by_peak = [feature for feature in peaks.argsort(descending=True, stable=True)[:n].tolist() if peaks[feature] > 0]
    if worth is None:
        return by_peak
    weight = torch.from_numpy(np.abs(worth[i]))
    by_worth = [feature for feature in weight.argsort(descending=True, stable=True)[:n].tolist() if weight[feature] > 0]
    return list(dict.fromkeys([*by_worth[: -(-n // 2)], *by_peak, *by_worth]))[:n]
