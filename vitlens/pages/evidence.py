"""Shows a heatmap of the predicted class, and tests it by removing patches in its order."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.faithfulness.perturbation import perturbation_test
from vitlens.heatmaps.methods.baselines import random_importance
from vitlens.heatmaps.run import heatmap
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.page import Section
from vitlens.plots.heatmaps import heatmap_figure
from vitlens.plots.removal import removal_curves

N_STEPS, N_RANDOM = 20, 5
#: The share of the patches that the sentence speaks of.
TOLD = 0.1
READING = "what each patch reads as (below)"


@dataclass(frozen=True)
class Removal:
    """The class's probability while patches leave the sequence: [step] by map, and [order, step] in random orders."""

    removed: list[float]
    by_map: dict[str, Float[Tensor, "step"]]
    by_chance: Float[Tensor, "order step"]


def evidence(
    model: HookedViT,
    images: Float[Tensor, "1 channels height width"],
    index: int,
    reading: Float[Tensor, "rows columns"] | None,
) -> Section:
    """The token-mask heatmap of a class with its removal curve.

    Args:
        reading: how much each patch by itself reads as the class, whose order is removed too, for comparison.

    Raises:
        InputError: a model whose probability means nothing.
    """
    model.require_choice("a probability")
    with torch.enable_grad():
        found = heatmap(model, images, torch.tensor([index]), progress=False)
    title = found.method.title
    maps = {title: found.values[0]} | ({} if reading is None else {READING: reading})
    removal = remove(model, images, index, maps)
    label = short_name(model.class_label(index))
    return Section(
        f"Where “{label}” comes from",
        f"{found.method.title} credits each patch with what the class gains while the patches enter the sequence. "
        + told(removal, title, label, found.values[0].numel()),
        [
            heatmap_figure(found),
            removal_curves(removal.removed, removal.by_map, removal.by_chance, label, model.cfg.model_name),
        ],
    )


def remove(
    model: HookedViT,
    images: Float[Tensor, "1 channels height width"],
    index: int,
    maps: dict[str, Float[Tensor, "rows columns"]],
) -> Removal:
    """Patches are really removed, most important first, by these maps and by random orders."""
    by_map = torch.stack([values.flatten().double().cpu() for values in maps.values()])
    chance = random_importance(range(N_RANDOM), by_map.shape[1])
    importance = torch.cat([by_map, chance])
    several = images.expand(len(importance), -1, -1, -1)
    classes = torch.full((len(importance),), index)
    found = perturbation_test(
        model, several, classes, importance=importance, n_steps=N_STEPS, perturbations="positive", progress=False
    )
    curves = found.probabilities[0]
    return Removal(found.axes["removed"], dict(zip(maps, curves, strict=False)), curves[len(maps) :])


def told(removal: Removal, title: str, label: str, n_patches: int) -> str:
    """What the removal curve says of a map, in a sentence or two."""
    step = min(range(len(removal.removed)), key=lambda i: abs(removal.removed[i] - TOLD))
    n = round(removal.removed[step] * n_patches)
    curve, chance = removal.by_map[title], removal.by_chance[:, step]
    sentence = (
        f"Without the {n} of {n_patches} patches that it marks most, “{label}” goes from {curve[0]:.1%} to "
        f"{curve[step]:.1%}; without as many at random, to {chance.mean():.1%} (mean of {len(chance)} draws)."
    )
    if curve[step] >= chance.min():
        sentence += " That is no better than random: on this picture the map does not show where the class comes from."
    return sentence
