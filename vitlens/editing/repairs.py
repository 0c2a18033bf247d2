"""Chooses an edit on some of the pictures, and reports what it does on the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from vitlens.arguments import check_count, checked, short
from vitlens.editing.baselines import classifier_inputs, random_edits, retrain_classifier
from vitlens.editing.edits import Edit, check_dose
from vitlens.editing.evaluation import UNEDITED, EditEvaluation, HasHooks, check_edits, evaluate_edits
from vitlens.editing.groups import GroupInput, Groups
from vitlens.editing.labelled import LabelledPictures, read_clusters
from vitlens.editing.proposals import propose_edits
from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.editing.split import SomePictures, split_pictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource
from vitlens.results.frames import Frame
from vitlens.results.result import Drawable

#: So many of the pictures show how large a random edit is.
N_FOR_NORMS = 256
RETRAINED, RANDOM_MEAN, UNLIMITED = "last layer retrained", "random (mean)", "without a limit"


@dataclass(frozen=True, repr=False)
class Repair(Drawable):
    """An edit that was chosen on one part of the pictures, and what it does on the others.

    `candidates` are all edits that were tried, on the pictures for choosing; `report` is of the others: the chosen edit at
    several doses, random edits of the same kind and norm, the edit that would be chosen without a limit on losses, and the
    model with its last layer trained again (not of distilled models, which have two). `chosen` is the name of the edit
    among the candidates, "unedited" if none was better; `unlimited` is that of the other. `edits` holds them all by name.
    """

    edit: Edit | None
    chosen: str
    candidates: EditEvaluation
    report: EditEvaluation
    edits: dict[str, Edit]
    doses: dict[str, float]
    max_loss: float | None
    unlimited: str
    shortcut: Shortcut | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Repair({self.chosen}: {self.edit!r})"

    @property
    def dose(self) -> float | None:
        """The dose at which the edit was chosen; None where no edit was better."""
        return None if self.edit is None else self.edit.changes[0].dose

    @property
    def random(self) -> list[str]:
        """What the random edits are called in the report."""
        return [name for name in self.report.axes["edit"] if name.startswith("random ")]

    def table(self, level: float = 0.95, n_draws: int = 1000, seed: int = 0) -> pd.DataFrame:
        """The report, one row for each edit and group, see `EditEvaluation.table`; "random" is the mean over those edits."""
        rows = self.report.table(level, n_draws, seed)
        is_random = rows["edit"].isin(self.random)
        means = rows[is_random].groupby("group", sort=False).mean(numeric_only=True).reset_index()
        means.insert(0, "edit", RANDOM_MEAN)
        return Frame(pd.concat([rows[~is_random], means], ignore_index=True))

    def trade_off(self) -> pd.DataFrame:
        """Each candidate on the pictures for choosing: accuracy by group and of the worst, largest loss, mean KL.

        "largest_loss" is what the edit may cost a group, but for the one that was worst: the upper end of a 95 % interval.
        """
        accuracies = self.candidates.accuracies()
        columns = {group: accuracies[:, i].numpy() for i, group in enumerate(self.candidates.groups)}
        return Frame(
            {
                "edit": self.candidates.axes["edit"],
                **columns,
                "worst_group": self.candidates.worst().numpy(),
                "largest_loss": self.candidates.largest_losses().numpy(),
                "kl": self.candidates.kl.double().mean(dim=1).numpy(),
            }
        )


@leaves_state
@checked
def repair(
    model: HookedViT,
    images: PictureSource,
    labels: Any = None,
    groups: GroupInput | Groups | None = None,
    *,
    edits: Mapping[str, Edit] | None = None,
    max_loss: float | None = 0.01,
    doses: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    held_out: float | Bool[Tensor, "image"] = 0.5,
    clusters: Any = None,
    n_draws: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Repair:
    """Chooses the edit that helps the worst group most, and reports what it does on pictures that did not choose it.

    It tries to remove directions of what the classifier reads (`group_directions`) and parts that `find_shortcut` names,
    some or many, at several doses; or it tries `edits`. It takes the edit with the highest accuracy in the worst group,
    among those that cost no other group more than `max_loss`. The report sets beside it random edits of the same kind and
    norm, and the model with only its last layer trained again on balanced groups.

    Args:
        images: a tensor, files, or a picture set; pictures need numbers, so that they can be split.
        labels, groups: the true class and the group of each picture; None for those of a picture set.
        edits: what is tried, by name, in place of what is proposed; made without the pictures of the report.
        max_loss: how much accuracy a group, but for the worst, may lose on the pictures for choosing, as a share; the whole
            95 % interval must lie below. None: no limit.
        doses: at which edits are tried and reported.
        held_out: which pictures the report is about: their share, split by class and `clusters`; or True for each of them.
        clusters: a number for each picture; pictures with the same one show the same object and stay together.
        n_draws: how many random edits.
        seed: of the split and the random edits.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show bars; by default on a terminal only.

    Returns:
        Repair, with `edit` (`hooks`, `fold`, `save`), `table()`, `trade_off()`, `plot()`.

    Raises:
        InputError: pictures that cannot be read by number; a part of the split without one of the groups; a model that
            predicts no class.

    Source: Sagawa et al. 2020 (worst-group accuracy); Kirichenko et al. 2023 (last layer).

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> edits = {"half of L2H1": vitlens.edit(model, "L2H1", dose=0.5)}
        >>> groups, pairs = ["agreeing", "conflicting"] * 50, [i // 2 for i in range(100)]
        >>> found = vitlens.repair(model, images, labels, groups, edits=edits, clusters=pairs, n_draws=1)
        >>> found.trade_off()["edit"].tolist()
        ['unedited', 'half of L2H1']
        >>> found.report.axes["edit"][0], found.report.axes["edit"][-1]
        ('unedited', 'last layer retrained')
    """
    model.require_prediction()
    if model.cfg.output != "softmax" or model.cfg.n_classes < 2:
        raise InputError(
            f"a repair is judged by which class is predicted, and {model.cfg.model_name} has no classes that exclude each "
            'other: model.set_output("softmax") says that it has'
        )
    _check_limits(max_loss, doses, n_draws)
    if edits is not None:
        check_edits(model, edits)
        _check_doses(edits)
    pictures = LabelledPictures(model, images, labels, batch_size)
    found = pictures.read_groups(groups)
    if pictures.source.n_numbered is None:
        raise InputError("repair splits the pictures by their numbers, so it needs a tensor, files or a picture set")
    given = read_clusters(clusters, len(pictures))
    together = torch.arange(len(pictures)) if given is None else torch.from_numpy(given)
    is_held_out = split_pictures(pictures.labels, found, together, held_out, seed)
    everything = SomePictures(pictures.source, torch.arange(len(pictures)), pictures.labels, found, together)
    chosen_by, reported = everything.only(~is_held_out), everything.only(is_held_out)
    about: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    shortcut = None
    tried: dict[str, Edit] = dict(edits or {})
    if edits is None:
        shortcut, tried = propose_edits(model, chosen_by, doses, about)
    candidates = evaluate_edits(model, *chosen_by, edits=tried, clusters=chosen_by.clusters, **about)
    name = _choose(candidates, max_loss)
    chosen = tried.get(name)
    shown: dict[str, HasHooks] = {}
    at: dict[str, float] = {}
    if chosen is not None:
        at = {f"dose {dose:g}": dose for dose in sorted({*doses, chosen.changes[0].dose})}
        shown = {label: chosen.at(dose) for label, dose in at.items()}
        shown |= random_edits(chosen, chosen_by.some(N_FOR_NORMS, seed).images, n_draws, seed, batch_size)
    unlimited = _choose(candidates, None)
    if unlimited not in (name, UNEDITED):
        shown[UNLIMITED] = tried[unlimited]
    retrained = None
    if not model.is_distilled:
        inputs = classifier_inputs(model, chosen_by.images, **about)
        retrained = shown[RETRAINED] = retrain_classifier(model, inputs, chosen_by.labels, chosen_by.groups, seed)
    # Where nothing was better and there is nothing to compare with, what was tried is shown.
    report = evaluate_edits(model, *reported, edits=shown or tried, clusters=reported.clusters, **about)
    if retrained is not None and not retrained.knows_all_classes:
        # Classes without pictures are never predicted: how far its logits are from others says nothing.
        for values in (report.kl, report.margins, report.changes):
            values[-1] = torch.nan
    settings = {
        "held_out": held_out if isinstance(held_out, (int, float)) else "given",
        "edits": "proposed" if edits is None else "given",
        "n_draws": n_draws,
        "seed": seed,
    }
    return Repair(chosen, name, candidates, report, tried, at, max_loss, unlimited, shortcut, settings)


def _check_doses(edits: Mapping[str, Edit]) -> None:
    """Raises InputError for edits of which a part has another dose than the rest, since each is reported over its dose."""
    for name, made in edits.items():
        if len({change.dose for change in made.changes}) > 1:
            raise InputError(
                f"the edit {name!r} has parts at different doses, and is reported over one: give all the same"
            )


def _check_limits(max_loss: float | None, doses: Sequence[float], n_draws: int) -> None:
    check_count(n_draws, "n_draws")
    if max_loss is not None and not 0 <= max_loss <= 1:
        raise InputError(f"max_loss is a share of the pictures, such as 0.01 for one point, or None, not {max_loss}")
    given = list(doses) if isinstance(doses, (list, tuple)) else []
    for dose in given:
        check_dose(dose)
    if not given or 0 in given:
        raise InputError(
            f"doses are at least one number, none of them 0, at which nothing is edited, not {short(doses)}"
        )


def _choose(candidates: EditEvaluation, max_loss: float | None) -> str:
    """The edit with the best worst group among those within the limit; of equal ones the one that changes least."""
    names, worst = candidates.axes["edit"], candidates.worst()
    kl = candidates.kl.double().mean(dim=1)
    allowed = list(range(len(names)))
    if max_loss is not None:
        lost = candidates.largest_losses()
        allowed = [i for i in allowed if i == 0 or lost[i] <= max_loss + 1e-12]
    return names[max(allowed, key=lambda i: (float(worst[i]), -float(kl[i])))]
