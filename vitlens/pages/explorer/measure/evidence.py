"""Heatmaps of the picture's first class, and their test: its probability while patches leave in the order of each map."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.description.artefacts import artefact_tokens
from vitlens.errors import InputError
from vitlens.faithfulness.perturbation import perturbation_test
from vitlens.heatmaps.methods.baselines import random_importance
from vitlens.heatmaps.registry import METHODS
from vitlens.heatmaps.run import Heatmap, heatmap
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.explorer.measure.quantise import as_numpy

#: The page's heatmaps, the one that it opens with first.
SHOWN = ("token_mask", "raw_attention")
N_STEPS, N_RANDOM = 20, 5


@dataclass(frozen=True)
class Removal:
    """The class's probability while patches leave the sequence: [step] by map, and [order, step] in random orders."""

    removed: list[float]
    by_map: dict[str, Float[Tensor, "step"]]
    by_chance: Float[Tensor, "order step"]


def heatmaps_of(model: HookedViT, image: Float[Tensor, "1 channels height width"], index: int | None) -> list[Heatmap]:
    """Those of `SHOWN` that the model has: without a classifier, the ones that are of no class."""
    with torch.enable_grad():
        return [
            heatmap(model, image, None if index is None else [index], method=name, progress=False)
            for name in SHOWN
            if index is not None or not METHODS[name].class_specific
        ]


def heatmap_tensors(found: list[Heatmap]) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """heatmap of `Measured`, and what each of the maps is."""
    facts = [
        {
            "name": each.method.name,
            "title": each.method.title,
            "signed": each.method.signed,
            "unit": _unit(each),
            "class": None if each.classes is None else int(each.classes[0, 0]),
            "gap": None if each.completeness_gap is None else float(each.completeness_gap[0]),
        }
        for each in found
    ]
    return {"heatmap": as_numpy(torch.stack([each.patches()[0].float() for each in found]))}, facts


def _unit(found: Heatmap) -> str:
    """Of the numbers of the map: raw attention is a share, and the others divide what their option says."""
    return found.settings["metric"] if found.method.class_specific else "share of attention"


def outlier_tensors(model: HookedViT, image: Tensor) -> dict[str, np.ndarray]:
    """outliers of `Measured`: which patches are artefact tokens."""
    return {"outliers": artefact_tokens(model, image)[0].cpu().numpy().astype(np.uint8)}


def removal_tensors(model: HookedViT, image: Tensor, index: int, found: list[Heatmap]) -> dict[str, np.ndarray]:
    """removal_steps and removal_curves of `Measured`; NaN for a map that puts the patches in no order.

    Raises:
        InputError: a model whose probability means nothing.
    """
    maps = {each.method.name: each.values[0] for each in found}
    ordering = {name: values for name, values in maps.items() if (values != values.flatten()[0]).any()}
    removal = remove(model, image, index, ordering)
    none = torch.full((len(removal.removed),), torch.nan)
    curves = torch.stack([*[removal.by_map.get(name, none) for name in maps], *removal.by_chance])
    return {"removal_steps": np.array(removal.removed, dtype=np.float32), "removal_curves": as_numpy(curves)}


def remove(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    index: int,
    maps: dict[str, Float[Tensor, "rows columns"]],
) -> Removal:
    """Patches are really removed, most important first, by these maps and by random orders.

    Raises:
        InputError: a model whose probability means nothing; a picture of a single patch, which has no order.
    """
    n_patches = int(np.prod(model.embed.grid(*image.shape[-2:])))
    if n_patches < 2:
        raise InputError("the picture is a single patch, which cannot be removed in an order")
    chance = random_importance(range(N_RANDOM), n_patches)
    by_map = [values.flatten().double().cpu() for values in maps.values()]
    importance = torch.cat([*[values[None] for values in by_map], chance])
    several = image.expand(len(importance), -1, -1, -1)
    classes = torch.full((len(importance),), index)
    found = perturbation_test(
        model, several, classes, importance=importance, n_steps=N_STEPS, perturbations="positive", progress=False
    )
    curves = found.probabilities[0].cpu()
    return Removal(found.axes["removed"], dict(zip(maps, curves, strict=False)), curves[len(maps) :])
