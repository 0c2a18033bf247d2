"""Interventions on the tokens that are marked in an explorer: patching, ablation, removal."""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitlens.data.class_names import short_name
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.pages.explorer.facts import top_classes
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.patching.ablation import ablation_hooks, activation_ablation
from vitlens.patching.activation import activation_patching
from vitlens.patching.results import Intervention
from vitlens.patching.sources import mean_activations
from vitlens.patching.whole_runs import logits_of
from vitlens.removal.tokens import TokenAblation, ablate_tokens

if TYPE_CHECKING:
    from vitlens.pages.explorer.explorer import Explorer


def replaced_by(
    explorer: "Explorer", source: Pictures | None, site: str, replacement: str
) -> str | Mapping[str, Tensor]:
    """What an ablation puts in: the mean over the explorer's pictures is computed once.

    Raises:
        InputError: the mean of a single picture.
    """
    if source is not None or replacement != "mean":
        return replacement
    if len(explorer.images) == 1:
        raise InputError("the mean over one picture is that picture itself: explore several, or replace by zero")
    return mean_activations(explorer.model, explorer.images, sites=site, progress=False)


def intervene(
    explorer: "Explorer",
    source: Pictures | None,
    site: str,
    replacement: str | Mapping[str, Tensor],
    options: dict[str, Any],
) -> Intervention:
    """Patches the marked tokens with those of `source`, or ablates them where there is none."""
    number = explorer.selected_picture
    image = explorer.images[number : number + 1]
    tokens = chosen_tokens(explorer)
    baseline = explorer.selected_baseline
    about: dict[str, Any] = {
        "tokens": {"marked": tokens},
        "metric": "logit" if baseline is None else "logit_difference",
        "classes": [explorer.selected_class],
        "sites": site,
        "baseline_classes": None if baseline is None else [baseline],
        "progress": False,
    } | options
    if source is None:
        return activation_ablation(explorer.model, image, replacement=replacement, **about)
    return activation_patching(explorer.model, source, image, **about)


@torch.no_grad()
def decision(
    explorer: "Explorer",
    result: Intervention,
    source: Pictures | None,
    site: str,
    replacement: str | Mapping[str, Tensor],
) -> dict[str, Any]:
    """The top classes of the picture before, and after the one change of the sweep that moves the logit most."""
    model, number = explorer.model, explorer.selected_picture
    image = explorer.images[number : number + 1]
    shift = result.shift()
    strongest = torch.unravel_index(shift.abs().flatten().argmax(), shift.shape)
    cell = {axis: int(i) for axis, i in zip(result.axes, strongest, strict=True)}
    block, unit = result.axes["block"][cell["block"]], next((name for name in ("head", "neuron") if name in cell), None)
    hooks = ablation_hooks(
        model,
        image,
        site=site,
        places=[block] if unit is None else [(block, cell[unit])],
        replacement=replacement if source is None else "other",
        others=source,
        tokens=chosen_tokens(explorer),
        progress=False,
    )
    at = f"block {block}" + ("" if unit is None else f", {unit} {cell[unit]}")
    after = model.run_with_hooks(image, fwd_hooks=hooks)
    before, after = (top_classes(as_numpy(logits[0]), model.cfg.output) for logits in (model(image), after))
    return {"at": at, "before": before, "after": after}


def describe_effect(explorer: "Explorer", result: Intervention, how: str) -> dict[str, Any]:
    """What the page draws of it: the shift of the logit of every cell, in logits, and a title."""
    cells = {axis: labels for axis, labels in result.axes.items() if axis == "block" or len(labels) > 1}
    names = [_cell_name(dict(zip(cells, place, strict=True))) for place in product(*cells.values())]
    n = len(chosen_tokens(explorer))
    label = short_name(explorer.model.class_label(explorer.selected_class))
    if explorer.selected_baseline is not None:
        label += f" − {short_name(explorer.model.class_label(explorer.selected_baseline))}"
    target = result.target.flatten()[0].item()
    return {
        "picture": explorer.selected_picture,
        "title": f"{n} token{'s' * (n != 1)} of {result.settings['site']} {how}: "
        f"change of the logit of “{label}”, which is {target:+.3f} without",
        "cells": names,
        "shift": result.shift().flatten().tolist(),
    }


def _cell_name(place: dict[str, Any]) -> str:
    """A head by its name, all else by its block."""
    block, head = place.pop("block"), place.pop("head", None)
    return " ".join([f"block {block}" if head is None else f"L{block}{head}", *map(str, place.values())])


def remove_marked(explorer: "Explorer") -> tuple[TokenAblation, dict[str, Any]]:
    """The run without the marked patches, and what the page draws of it: the answer before and after, and every class's
    shift."""
    model, number = explorer.model, explorer.selected_picture
    image, tokens = explorer.images[number : number + 1], chosen_tokens(explorer)
    result = ablate_tokens(model, image, [explorer.selected_class], tokens=tokens, progress=False)
    before, after = as_numpy(logits_of(model, image)[0]), as_numpy(result.logits[0])
    classes = explorer.facts["pictures"][number]["classes"]
    n = len(tokens)
    effect = {
        "picture": number,
        "title": f"Without {n} patch{'es' * (n != 1)}, left out of the sequence: change of the logit of each class",
        "cells": [short_name(model.class_label(index)) for index in classes],
        "shift": (after - before)[classes].tolist(),
        "before": top_classes(before, model.cfg.output),
        "after": top_classes(after, model.cfg.output),
    }
    return result, effect


def chosen_tokens(explorer: "Explorer") -> list[int]:
    """The marked ones; without marks the chosen one."""
    return explorer.marked_tokens or [explorer.selected_token]
