"""Ablates tokens, heads or neurons one at a time, and measures how the metric changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.arguments import checked, is_whole, short
from vitlens.choose.classes import Classes
from vitlens.choose.metrics import Metrics
from vitlens.choose.sites import TokenSets, find_site
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import read_head
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.patching.results import Ablation
from vitlens.patching.sources import ActivationTable, GivenValues, Noise, OtherRun, Source, Zeros, mean_activations
from vitlens.patching.sweep import Plan, run_sweep
from vitlens.patching.whole_runs import known_values, make_result, run_alone

#: How a place is given, by the unit of the site.
PLACES = {None: "a block", "head": "(block, head) or a name such as 'L2H1'", "neuron": "(block, neuron)"}
ACTIVATION_REPLACEMENTS = ("zero", "mean", "other", "noise")


@leaves_state
@checked
@takes_text("predicted")
def activation_ablation(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    metric: Metrics = "logit",
    sites: str | Sequence[str] = "z",
    replacement: str | Tensor | Mapping[Any, Tensor] = "zero",
    others: Pictures | None = None,
    noise_scale: float = 1.0,
    seed: int = 0,
    tokens: TokenSets = None,
    blocks: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    neurons: int | Sequence[int] | None = None,
    keys: TokenSet | None = None,
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    resume: Ablation | None = None,
) -> Ablation:
    """Ablates one cell at a time, a (block, token set), (block, head) or (block, neuron), and measures the metric's change.

    Arguments that are not listed here mean the same as in `activation_patching`.

    Args:
        classes: the target class of each picture; by default the predicted class.
        metric: by default the logit; a "logit_difference" subtracts the logit of the runner-up by default.
        replacement: what replaces the activation: "zero"; "mean", its mean over `images` at each position; the result of
            `mean_activations`, its mean over a data set; "other", the activation of `others`, picture by picture;
            "noise", itself plus Gaussian noise of `noise_scale` standard deviations; or a tensor, or tensors by block or
            hook name, of the activation's shape ([image, …], [1, …] or without the axis of pictures).

    Returns:
        Ablation with axes (metric), (site), block, tokens and/or head or neuron, image.

    Raises:
        InputError: as `activation_patching`; an unknown replacement; `others` missing; tensors that do not fit.

    Source: Methods B2; Chan et al. 2022 (resampling).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> ablated = vitlens.activation_ablation(model, images[:4], labels[:4], sites="z", replacement="mean")
        >>> list(ablated.axes)
        ['block', 'head', 'image']
        >>> ablated.effect().shape  # the mean change of the logit, by block and head
        torch.Size([6, 4])
    """
    model.require_classifier()
    images = model.as_images(images)
    plan = Plan.make(model, images, sites, blocks, tokens=tokens, heads=heads, neurons=neurons, keys=keys, masks=masks)
    source = _source(model, images, plan, replacement, others, noise_scale, seed, batch_size, progress)
    runs = run_alone(model, images, classes, baseline_classes, metric)
    settings = {"site": plan.site_names, "replacement": replacement if isinstance(replacement, str) else "given"}
    known = known_values(resume, runs, plan.axes, settings)
    changed = run_sweep(model, plan, images, source, runs.measures, known, batch_size=batch_size, progress=progress)
    return make_result(Ablation, runs, plan.axes, changed, quantity="change", settings=settings)


@leaves_state
@checked
def ablation_hooks(
    model: HookedViT,
    images: Pictures,
    *,
    site: str,
    places: int | str | tuple[int, int] | Sequence[str | tuple[int, int]] | Sequence[int],
    replacement: str | Tensor | Mapping[Any, Tensor] = "zero",
    others: Pictures | None = None,
    noise_scale: float = 1.0,
    seed: int = 0,
    tokens: TokenSet = "all",
    keys: TokenSet | None = None,
    masks: MaskInput | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Hooks:
    """Makes hooks that ablate several places at once, for `model.hooks(…)`, `run_with_hooks` or an analysis inside them.

    Args:
        images: the pictures of the run; only their number and size matter, except for "mean" and "noise".
        places: (block, head), also as "L2H1", or (block, neuron); block numbers for a site without heads and neurons; one or
            several; -1 is the last.
        tokens: the tokens at which the site is ablated; `keys`: for patterns and scores, the keys.
        batch_size: pictures of a forward, where activations are read; by default 64, or fewer where these would take much
            memory.
        progress: show a bar over these forwards; by default on a terminal only.

    The other arguments are those of `activation_ablation`.

    Raises:
        InputError: as `activation_ablation`; no places.

    Source: Methods B1, B2.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> hooks = vitlens.patching.ablation_hooks(model, images[:2], site="z", places=["L3H1", "L5H0"])
        >>> model.run_with_hooks(images[:2], fwd_hooks=hooks).shape  # the logits without two heads
        torch.Size([2, 10])
    """
    images = model.as_images(images)
    unit = find_site(model, site).unit
    pairs = _places(places, unit)
    blocks = sorted({model.block_index(block) for block, _ in pairs})
    numbers = list(dict.fromkeys(number for _, number in pairs))
    about: dict[str, Any] = {} if unit is None else {f"{unit}s": numbers}
    one_set = [tokens] if unit is None else tokens
    plan = Plan.make(model, images, site, blocks, tokens=one_set, keys=keys, masks=masks, **about)
    cells, everything = plan.sites[0], slice(0, len(images))
    source = _source(model, images, plan, replacement, others, noise_scale, seed, batch_size, progress)
    values = _activations(model, source, [cells.site.hook(block) for block in blocks], images, batch_size, progress)
    hooks: Hooks = []
    for block in blocks:
        here = [numbers.index(number) for of_block, number in pairs if model.block_index(of_block) == block]
        name = cells.site.hook(block)
        hooks.append((name, _write_where(cells.where(here, everything).any(dim=0), values[name])))
    return hooks


def _places(places: Any, unit: str | None) -> list[tuple[int, int]]:
    """(block, number of the unit), 0 for a site without units."""
    several = isinstance(places, list) or (isinstance(places, (tuple, range)) and unit is None)
    if unit is not None and isinstance(places, tuple) and places and not is_whole(places[0]):
        several = True
    wanted = list(places) if several else [places]
    if not wanted:
        raise InputError("the list of places is empty")
    if unit == "head":
        wanted = [read_head(place) or place for place in wanted]
    for place in wanted:
        is_pair = isinstance(place, (tuple, list)) and len(place) == 2 and all(is_whole(number) for number in place)
        if not (is_whole(place) if unit is None else is_pair):
            raise InputError(f"a place is {PLACES[unit]} at this site, not {short(place)}")
    return [(int(place), 0) if unit is None else (int(place[0]), int(place[1])) for place in wanted]


@torch.no_grad()
def _activations(
    model: HookedViT, source: Source, names: list[str], images: Tensor, batch_size: int | None, progress: bool | None
) -> ActivationTable:
    """The replacements at these hook points, for all pictures; sources that run the model are read in batches."""
    if not isinstance(source, (OtherRun, Noise)):
        return source.activations(model, names, images, slice(0, len(images)))
    parts = [
        source.activations(model, names, batch, places)
        for places, batch in PictureRun(model, images, batch_size, progress, "ablation")
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _write_where(inside: Tensor, value: Tensor) -> Any:
    def ablate(activation: Tensor, hook: HookPoint) -> Tensor:
        return torch.where(inside, value, activation)

    return ablate


def _as_given(replacement: Any) -> Tensor | Mapping[Any, Tensor]:
    """Tensors of the user's.

    Raises:
        InputError: something else, or NaN in them.
    """
    tensors = list(replacement.values()) if isinstance(replacement, Mapping) else [replacement]
    for value in tensors:
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
            raise InputError(
                f"replacement is one of {', '.join(ACTIVATION_REPLACEMENTS)}, or tensors that fit the activations, not "
                f"{short(value)}"
            )
        # A score of −∞ is allowed, because it cuts an edge; NaN is not.
        if value.isnan().any():
            raise InputError("the tensors given as replacement contain NaN")
    return replacement


def _source(
    model: HookedViT,
    images: Tensor,
    plan: Plan,
    replacement: str | Tensor | Mapping[Any, Tensor],
    others: Pictures | None,
    noise_scale: float,
    seed: int,
    batch_size: int | None,
    progress: bool | None,
) -> Source:
    if others is not None and not (isinstance(replacement, str) and replacement == "other"):
        raise InputError('others= goes with replacement="other": another replacement would not read them')
    if not isinstance(replacement, str):
        return GivenValues(_as_given(replacement))
    if replacement == "zero":
        return Zeros()
    if replacement == "mean":
        sites = [cells.site.name for cells in plan.sites]
        about: dict[str, Any] = {"sites": sites, "blocks": plan.blocks, "batch_size": batch_size, "progress": progress}
        return GivenValues(mean_activations(model, images, **about))
    if replacement == "other":
        return OtherRun(model.as_partners(others, images))
    if replacement == "noise":
        return Noise(float(noise_scale), seed)
    raise InputError(
        f"replacement is one of {', '.join(ACTIVATION_REPLACEMENTS)}, or tensors that fit the activations, not "
        f"{replacement!r}"
    )
