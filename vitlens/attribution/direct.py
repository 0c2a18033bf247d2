"""Direct logit attribution: splits the logit of a class exactly into what each part of the network writes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.attribution.results import (
    Attribution,
    NeuronAttribution,
    PatchAttribution,
    PathAttribution,
    TokenAttribution,
)
from vitlens.attribution.run import attribution_run
from vitlens.attribution.units import UNITS, Split
from vitlens.choose.classes import Classes, ClassSelection, select_classes
from vitlens.choose.texts import takes_text
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.class_space.readout import Readout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_run import PictureRun
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.axes import TokenLabel
from vitlens.results.result import MOST_KEPT

__all__ = [
    "Attribution",
    "NeuronAttribution",
    "PatchAttribution",
    "PathAttribution",
    "TokenAttribution",
    "direct_logit_attribution",
]

#: Numbers in the directions of the classes that are attributed at once.
DIRECTIONS_AT_ONCE = 2**25


@leaves_state
@checked
@takes_text("all")
def direct_logit_attribution(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    baseline_classes: Classes = None,
    unit: str = "component",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Attribution:
    """Splits the logit of a class into the direct contributions of all components, with the final norm's statistics frozen.

    logit_c = Σ_components Σ_t w_t ⟨u_c, component_t⟩ + constant_c, where u_c is the class embedding multiplied back through
    the norm's gain and centring, and w_t the pooling weight divided by the norm's scale. The shares sum to the logit up to
    rounding; `result.residual` is the difference. In attention pooling the pattern is frozen and its MLP is one component;
    in max pooling the position of each feature's maximum is frozen. A classifier of several layers is frozen at the
    picture's point: its gradient there, what divides in its norms held; what that leaves of the logit is one component.

    Finer units also freeze what else is not linear on their path (patterns, gates, norms after heads or MLPs, and for
    "path" the norm before the head). Their shares sum to the logit too:

        head_patch   Σ_q w_q A_qj ⟨v_j, W_O u_c⟩        of source j through a head
        neuron       Σ_t w_t post_tn ⟨W_out[n], u_c⟩
        token        w_t ⟨u_c, component_t⟩              of each component at each token that is read
        path         Σ_q w_q A_qj ⟨W_V x̂_j, W_O u_c⟩    summed over j, of each writer's part of what the head reads, x̂

    Args:
        images: pictures as a tensor, or anything `model.to_images` reads.
        classes: indices, names, or a tensor [image] of each picture's own; by default each picture's predicted class.
        baseline_classes: attribute logit(class) − logit(baseline class) instead, for each position of `classes`.
        unit: "component": embedding, positions, each block's attention and MLP, and the constant; "head": attention split
            into heads and its output bias; "head_patch": heads split by the token that they attend to; "neuron": MLPs
            split into neurons and their output bias; "token": components split by the token at which they write; "path":
            heads split by the component that wrote the values they move.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        Attribution with axes image, class, component. Component labels: "embed", "pos_embed" (or "embed_norm" where a
        norm follows the embedding), "L3 attn" or "L3H5" and "L3 attn bias", "L3 mlp", "pool mlp" (attention pooling),
        "classifier rest" (what a classifier of several layers adds to its gradient times what it reads; 0 or constant, and
        then part of the constant, where its norms alone are not linear), "constant" (bias of the classifier and of the
        final norm). PatchAttribution, NeuronAttribution, TokenAttribution or
        PathAttribution for the finer units; what these do not split is in their `elsewhere`, by the same labels.

    Raises:
        InputError: an unknown unit or class; a model without a classifier; a hook that edits an activation which this unit
            does not include. Under `model.hooks` the hooked run is attributed: a head that a hook sets to zero has no
            share, and an edit of the residual stream, which no component wrote, is refused.

    Source: Methods, notation, TransformerLens' logit_attrs with the affine norm and pooling included;
    Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits) for virtual heads.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> shares = vitlens.direct_logit_attribution(model, images[4:5], "T-shirt", unit="head")
        >>> shares.top(2).round(1)  # the parts that write most of the logit
          component  logit
        0      L5H1    1.7
        1    L0 mlp    0.8
        >>> print(shares.sentence(2))
        T-shirt: logit +5.67
        L5H1: +1.74
        L0 mlp: +0.84
        all else: +3.08
    """
    if unit not in UNITS:
        raise InputError(f"unit is one of {', '.join(UNITS)}, not {unit!r}")
    model.require_classifier()
    run = PictureRun(model, images, batch_size, progress, "attribution")
    _check_rows(run.n, classes, baseline_classes)
    batches = [
        _attribute(model, pictures, _of_batch(classes, where), _of_batch(baseline_classes, where), unit)
        for where, pictures in run
    ]
    return batches[0] if len(batches) == 1 else _joined(batches)


def _attribute(
    model: HookedViT, pictures: Tensor, classes: Classes, baseline_classes: Classes, unit: str
) -> Attribution:
    """The attribution of one batch."""
    grid = model.embed.grid(*pictures.shape[-2:])
    tokens = _token_names(model, grid)
    with torch.no_grad():
        kept, stream, all_logits = attribution_run(model, pictures, UNITS[unit].wanted(model), unit)
        selection = select_classes(model, classes, len(pictures), lambda: all_logits)
        logits = selection.take(all_logits)
        baseline = None
        if baseline_classes is not None:
            baseline = select_classes(model, baseline_classes, len(pictures), lambda: all_logits)
            check_baseline(selection, baseline)
            logits = logits - baseline.take(all_logits)
        readouts = model.linear_readouts(stream)
        splits = [
            UNITS[unit].split(model, kept, [readout.choose(*chosen) for readout in readouts], tokens)
            for chosen in _class_chunks(selection, baseline, readouts)
        ]
    split = splits[0] if len(splits) == 1 else _side_by_side(splits)
    return UNITS[unit].result(
        values=split.values,
        axes={"image": list(range(len(pictures))), "class": selection.labels, **split.axes},
        quantity="logit" if baseline is None else "logit difference",
        logits=logits,
        baseline_names=None if baseline is None else baseline.labels,
        elsewhere=torch.stack(list(split.elsewhere.values()), dim=-1) if split.elsewhere else None,
        elsewhere_names=list(split.elsewhere) or None,
        classes=selection.indices,
        class_names=model.class_names,
        pixels=small_pictures(model, pictures),
        settings={"model": model.cfg.model_name, "unit": unit, "norm": "statistics frozen"},
        grid=grid,
    )


def _class_chunks(
    selection: ClassSelection, baseline: ClassSelection | None, readouts: list[Readout]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields chunks of classes small enough that the direction tensor fits in memory (max pooling needs one per token)."""
    n_images, n_classes = selection.indices.shape
    largest = max(readout.numbers_per_class for readout in readouts)
    at_once = max(1, DIRECTIONS_AT_ONCE // (n_images * largest))
    for start in range(0, n_classes, at_once):
        compared = None if baseline is None else baseline.indices
        if compared is not None and compared.shape[1] > 1:
            compared = compared[:, start : start + at_once]
        yield selection.indices[:, start : start + at_once], compared


def _side_by_side(splits: list[Split]) -> Split:
    """Joins results of the same pictures for different classes."""
    elsewhere = {name: torch.cat([split.elsewhere[name] for split in splits], dim=1) for name in splits[0].elsewhere}
    return Split(torch.cat([split.values for split in splits], dim=1), splits[0].axes, elsewhere)


def _joined(batches: list[Attribution]) -> Attribution:
    """Joins the results of several batches of pictures."""
    first = batches[0]
    elsewhere = [batch.elsewhere for batch in batches if batch.elsewhere is not None]
    return replace(
        first,
        values=torch.cat([batch.values for batch in batches]),
        axes={**first.axes, "image": list(range(sum(len(batch.values) for batch in batches)))},
        logits=torch.cat([batch.logits for batch in batches]),
        elsewhere=torch.cat(elsewhere) if elsewhere else None,
        classes=torch.cat([batch.classes for batch in batches if batch.classes is not None]),
        pixels=torch.cat([batch.pixels for batch in batches if batch.pixels is not None])[:MOST_KEPT],
    )


def _of_batch(classes: Classes, where: slice) -> Classes:
    """The rows of a tensor of classes for some of the pictures; anything else applies to all pictures."""
    return classes[where] if isinstance(classes, (Tensor, np.ndarray)) else classes


def _check_rows(n_images: int, *given: Classes) -> None:
    for classes in given:
        if isinstance(classes, (Tensor, np.ndarray)) and classes.ndim and len(classes) != n_images:
            raise InputError(f"{len(classes)} rows of classes were given for {n_images} pictures")


def _token_names(model: HookedViT, grid: tuple[int, int]) -> list[TokenLabel]:
    """ "class", "register 2", "patch (row, column)"."""
    labels = model.cfg.token_labels(grid)
    return [label if label.kind == "prefix" else label.renamed(f"patch {label}") for label in labels]


def check_baseline(selection: ClassSelection, baseline: ClassSelection) -> None:
    """Raises InputError unless there is one baseline class, or one for each class."""
    n_classes, n_baseline = selection.indices.shape[1], baseline.indices.shape[1]
    if n_baseline not in (1, n_classes):
        raise InputError(f"{n_classes} classes need 1 or {n_classes} baseline classes, not {n_baseline}")
