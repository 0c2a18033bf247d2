"""Finds the parts of a model that carry a shortcut: what they write for the class differs between groups of pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.arguments import checked, names, short
from vitlens.data.masks import MaskInput
from vitlens.data.pictures import Pictures
from vitlens.editing.groups import GroupInput, Groups, read_groups
from vitlens.editing.labelled import LabelledPictures, read_clusters
from vitlens.editing.search.margins import Margins, MarginSplit
from vitlens.editing.search.proposed_groups import propose_groups
from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.editing.search.single_effects import SingleEffects
from vitlens.errors import InputError
from vitlens.features.placed import AnyDictionary
from vitlens.model.class_space.requirements import require_differences
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.statistics import GroupDifference, bootstrap, check_draws, compare_groups

#: The groups that are compared where groups are proposed.
PROPOSED = ("conflicting", "agreeing")
#: Kinds of parts that split heads and MLPs further, and those of which there are too many to list all.
FINER, MANY = ("neuron", "path", "feature"), ("neuron", "feature")


@leaves_state
@checked
def find_shortcut(
    model: HookedViT,
    images: PictureSource,
    labels: Sequence[int] | Tensor | np.ndarray | None = None,
    groups: GroupInput | Groups | None = None,
    *,
    contrast: Sequence[str] | None = None,
    parts: str | Sequence[str] = ("heads", "mlps"),
    sae: AnyDictionary | None = None,
    hook: HookName | None = None,
    masks: MaskInput | None = None,
    others: Pictures | None = None,
    clusters: Sequence[str | int] | Tensor | np.ndarray | None = None,
    k: int = 20,
    n_draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Shortcut:
    """Finds which parts write differently for the class in one group of pictures than in others, and ablates them.

    The question of each picture is its margin, the logit of its label minus the largest other logit of its own clean run:
    below 0 where the model errs. `direct_logit_attribution` splits the margin exactly into what each part writes, and a
    part that carries a shortcut writes less of it where the shortcut misleads. `vitlens.statistics.compare_groups` compares
    the mean shares of the groups: an interval over pictures, and a p that is corrected for all heads and MLPs that were
    compared. Neurons, features, and heads by what they read are corrected each for their own number.

    A share is what a part writes directly; what it does in all is measured by ablating it alone: its activation is replaced
    by its mean over these pictures at each position, and the margin and the accuracy are measured in each group. With
    `others`, the part's activation from the partner's run is put in.

    Memory holds one batch of pictures, and a number for each picture and part.

    Args:
        labels: the class of each picture; None for a picture set, which has them.
        groups: the group of each picture; None for a picture set with groups (`open_pictures(group_column=…)`), or, where
            `masks` are given, for those of `propose_groups`.
        contrast: two groups, e.g. ("conflicting", "agreeing"): the first is compared with the second. By default the group
            with the lowest accuracy is compared with all other pictures; of proposed groups, the conflicting one with the
            agreeing one.
        parts: one or several of "heads", "mlps", "neurons". Neurons are many: all are compared, and the `k` whose shares
            differ most are ablated and listed.
        sae: a dictionary, whose features are compared too, by `feature_attribution`; the `k` that differ most are listed.
            They are not ablated.
        hook: where the dictionary reads; None for the hook point it was trained on.
        masks: where the object is, one mask for each picture: each head's share is also split into what it reads from the
            object's patches, from the context's, and from prefix tokens ("L2H1 ← context").
        others: the partner of each picture, such as the same object in the other group.
        clusters: pictures that belong together, such as those of one object, as numbers or names [image]: intervals draw,
            and tests shuffle, with them.
        k: how many neurons, and how many features, are listed.
        n_draws: shuffles of a test and draws of an interval.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show bars; by default on a terminal only.

    Returns:
        Shortcut with axes component, group; `table()` has a row for each part, and `strongest()` names those to edit.

    Raises:
        InputError: labels, groups, partners or masks that do not fit; a group with fewer than two pictures; unknown parts or
            groups; a model whose outputs are no classes, or a single one.

    Source: Methods, notation, for the shares; Chan et al. 2022 for ablation by a mean; Westfall & Young 1993 for the
    correction.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> groups = ["agreeing", "conflicting"] * 20  # Each object on its own class's texture, and on another's.
        >>> found = vitlens.find_shortcut(model, images[:40], labels[:40], groups, parts="heads", n_draws=200)
        >>> found
        Shortcut(...)
    """
    model.require_prediction()
    require_differences(model, "a margin")
    pictures = LabelledPictures(model, images, labels, batch_size)
    names("parts", parts)
    wanted = MarginSplit([parts] if isinstance(parts, str) else list(parts), sae, hook, masks)
    given = pictures.groups if groups is None else groups
    if given is None:
        if masks is None:
            raise InputError(
                "groups= are missing: the group of each picture; or pass masks=, from which groups are proposed"
            )
        about: dict[str, Any] = {"masks": masks, "batch_size": batch_size, "progress": progress}
        given = propose_groups(model, images, pictures.labels, **about)
        contrast = PROPOSED if contrast is None else contrast
    of = read_groups(given, len(pictures))
    _check_contrast(of, contrast)
    belongs = read_clusters(clusters, len(pictures))
    draws: dict[str, Any] = {"n_draws": n_draws, "level": level, "seed": seed}
    check_draws(**draws)
    exact = Margins(model, pictures, wanted)
    exact.fill(progress)
    rows = {name: np.flatnonzero(exact.seen & of.where(name).numpy()) for name in of.names}
    inside, outside = _sides(rows, contrast, exact)
    kept, compared = _compared(exact, rows[inside], np.concatenate([rows[name] for name in outside]), belongs, k, draws)
    effects = SingleEffects(exact, [exact.parts[i] for i in kept], others)
    effects.fill(images, progress)

    def by_group(table: Float[np.ndarray, "image *part"]) -> list[Tensor]:
        """Mean and the ends of its interval over the pictures of each group, [part, group] each."""
        found = [
            bootstrap(table[at], clusters=None if belongs is None else belongs[at], **draws) for at in rows.values()
        ]
        return [torch.from_numpy(np.stack(one, axis=-1)) for one in zip(*found, strict=True)]

    tables = {"change": effects.margin, "accuracy_change": effects.correct, "patched": effects.patched}
    measured: dict[str, Any] = {
        f"{name}{end}": found
        for name, table in tables.items()
        for end, found in zip(("", "_low", "_high"), by_group(table), strict=True)
    }
    measured |= {name: torch.from_numpy(value) for name, value in compared.items()}
    return Shortcut(
        by_group(exact.shares[:, kept])[0],
        {"component": list(effects.parts), "group": of.names},
        "share",
        **measured,
        margins=by_group(exact.margins)[0],
        accuracy=by_group(exact.correct)[0],
        rest=by_group(exact.rest)[0],
        n=torch.tensor([len(at) for at in rows.values()]),
        settings={
            "model": model.cfg.model_name,
            "inside": inside,
            "outside": outside,
            "groups": "proposed" if groups is None and pictures.groups is None else "given",
            "parts": list(wanted.parts),
            "n_compared": len(exact.parts),
            "n_draws": n_draws,
            "level": level,
            "seed": seed,
        },
    )


def _check_contrast(groups: Groups, contrast: Sequence[str] | None) -> None:
    """Raises InputError unless these are two of the groups, with pictures enough for an interval."""
    if contrast is not None:
        pair = list(contrast) if isinstance(contrast, (list, tuple)) else []
        if len(pair) != 2 or not all(isinstance(name, str) for name in pair) or pair[0] == pair[1]:
            raise InputError(f"contrast= is a pair of groups, such as {tuple(groups.names[:2])}, not {short(contrast)}")
        for name in pair:
            groups.where(name)
    groups.require_intervals(contrast)


def _sides(
    rows: Mapping[str, Int[np.ndarray, "image"]], contrast: Sequence[str] | None, exact: Margins
) -> tuple[str, list[str]]:
    """The group that is compared, and those that it is compared with."""
    if contrast is not None:
        inside, outside = contrast
        return inside, [outside]

    def quality(name: str) -> tuple[float, float]:
        # Groups of equal accuracy are told apart by their margins.
        return exact.correct[rows[name]].mean(), exact.margins[rows[name]].mean()

    worst = min(rows, key=quality)
    return worst, [name for name in rows if name != worst]


def _compared(
    exact: Margins,
    inside: Int[np.ndarray, "inside"],
    outside: Int[np.ndarray, "outside"],
    belongs: Int[np.ndarray, "image"] | None,
    k: int,
    draws: dict[str, Any],
) -> tuple[list[int], dict[str, np.ndarray]]:
    """The columns that are kept, and by name how their shares compare.

    One correction for heads and MLPs, and one for each finer split of them, whichever columns are kept.
    """
    chosen = np.concatenate([inside, outside])
    is_inside, clusters = np.arange(len(chosen)) < len(inside), None if belongs is None else belongs[chosen]
    families = [part.kind if part.kind in FINER else "whole" for part in exact.parts]
    kept: list[int] = []
    tables: list[GroupDifference] = []
    for family in dict.fromkeys(families):
        columns = np.array([i for i, other in enumerate(families) if other == family])
        found = compare_groups(exact.shares[np.ix_(chosen, columns)], is_inside, clusters=clusters, **draws)
        some = np.arange(len(columns))
        if family in MANY:
            some = np.sort(np.argsort(-np.abs(found.difference), kind="stable")[:k])
        kept += columns[some].tolist()
        tables.append(GroupDifference(*(value[some] for value in found)))
    return kept, dict(zip(GroupDifference._fields, map(np.concatenate, zip(*tables, strict=True)), strict=True))
