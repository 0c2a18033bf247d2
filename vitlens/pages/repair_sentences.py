"""What a repair chose, gained and cost, in sentences with numbers and their intervals."""

import pandas as pd
import torch

from vitlens.data.class_names import short_name
from vitlens.editing.evaluation import UNEDITED, EditEvaluation
from vitlens.editing.repairs import RANDOM_MEAN, RETRAINED, UNLIMITED, Repair
from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.model.class_space.outputs import WITH_PROBABILITIES
from vitlens.plots.shared.style import in_percent, true_minus

#: So many of the strongest parts are named.
PARTS_SAID = 5
NO_EDIT = "No edit was better, so the model stays as it is."


def found_parts(shortcut: Shortcut) -> list[str]:
    """Which parts carry the difference between the groups."""
    inside = shortcut.settings["inside"]
    outside = " and ".join(f"“{name}”" for name in shortcut.settings["outside"])
    names = shortcut.strongest(PARTS_SAID)
    compared = (
        f"What {shortcut.settings['n_compared']:,} heads and MLPs write was compared between “{inside}” and {outside}"
    )
    if not names:
        return [
            f"{compared}: no part both writes less in “{inside}” and, ablated alone, raises the margin there beyond chance."
        ]
    rows = shortcut.table().astype({"component": str}).set_index("component")
    said = [
        f"{name} ({in_logits(rows.loc[name, f'change_{inside}'])} "
        f"[{in_logits(rows.loc[name, f'change_{inside}_low'])}, {in_logits(rows.loc[name, f'change_{inside}_high'])}])"
        for name in map(str, names)
    ]
    return [
        f"{compared}. These differ beyond chance, and ablated alone they raise the margin of “{inside}”, in logits: "
        f"{', '.join(said)}."
    ]


def choice(repair: Repair) -> list[str]:
    """What was tried, and which edit was taken."""
    table = repair.trade_off().set_index("edit")
    n_tried, n_pictures = len(table) - 1, len(repair.candidates.of_image)
    before = table.loc[UNEDITED, "worst_group"]
    tried = f"{n_tried:,} edit{'s were' if n_tried > 1 else ' was'} tried on {n_pictures:,} pictures"
    if repair.max_loss is None:
        n_allowed, limit = n_tried, "There was no limit to what a group may lose"
    else:
        n_allowed = int((table["largest_loss"].drop(UNEDITED) <= repair.max_loss + 1e-12).sum())
        limit = f"{n_allowed} of them cost{'s' * (n_allowed == 1)} no other group more than {limit_of(repair)}, "
        limit += "the whole 95 % interval counted"
    if not n_allowed:
        return [
            f"{tried}. Every one may cost another group more than {limit_of(repair)}: the 95 % interval goes beyond."
        ]
    if repair.edit is None:
        return [
            f"{tried}. {limit}, and none of these raises the accuracy of the worst group there, {in_percent(before, 1)}."
        ]
    return [
        f"{tried}. {limit}; the best for the worst group is “{repair.chosen}”: {in_percent(before, 1)} without it, "
        f"{in_percent(table.loc[repair.chosen, 'worst_group'], 1)} with it. These pictures chose the edit, so it looks "
        "better on them than it is. All that follows is of others."
    ]


def outcome(repair: Repair, table: pd.DataFrame) -> list[str]:
    """What the edit does to each group of the held-out pictures, the worst group first."""
    report = repair.report
    before = table[table["edit"] == UNEDITED].set_index("group")
    worst = before["accuracy"].idxmin()
    n_pictures = f"{len(report.of_image):,} held-out pictures"
    if repair.edit is None:
        shares = ", ".join(f"“{name}” {in_percent(row['accuracy'], 1)}" for name, row in before.iterrows())
        return [f"{NO_EDIT} On the {n_pictures} it is right: {shares}."]
    after = table[table["edit"] == chosen_name(repair)].set_index("group")
    row = after.loc[worst]
    said = [
        f"On the {n_pictures} the worst group, “{worst}”, {_goes(before.loc[worst, 'accuracy'], row)}: {change(row)}."
        f"{_verdict(row)}"
    ]
    for name, other in after.drop(worst).iterrows():
        said.append(f"“{name}” {_goes(before.loc[name, 'accuracy'], other)}: {change(other)}.{_beyond(repair, other)}")
    now = after["accuracy"].idxmin()
    if now != worst:
        said.append(f"The worst group is now “{now}”, {in_percent(after.loc[now, 'accuracy'], 1)}.")
    return said


def baselines(repair: Repair, table: pd.DataFrame) -> list[str]:
    """Random edits, the edit without a limit and the retrained last layer, beside the edit."""
    worst = table[table["edit"] == UNEDITED].set_index("group")["accuracy"].idxmin()
    of_group = table[table["group"] == worst].set_index("edit")
    said = []
    if repair.edit is not None:
        accuracies = repair.report.accuracies()[:, repair.report.groups.index(worst)]
        places = [repair.report.axes["edit"].index(name) for name in repair.random]
        own = accuracies[repair.report.axes["edit"].index(chosen_name(repair))]
        n_as_good, n_random = int((accuracies[places] >= own).sum()), len(places)
        if n_random:
            said.append(
                f"Random edits of the same kind and norm change “{worst}” by "
                f"{in_points(of_group.loc[RANDOM_MEAN, 'change'])} on average; {n_as_good} of {n_random} "
                f"{'is' if n_as_good == 1 else 'are'} as good for it as the edit, or better."
                + (" So a change like this can come by chance." if n_as_good else "")
            )
    if UNLIMITED in of_group.index:
        said.append(
            f"Without a limit “{repair.unlimited}” would have been chosen. It brings {_brings(table, UNLIMITED, worst)}"
        )
    if RETRAINED in of_group.index:
        said.append(f"Retraining only the last layer brings {_brings(table, RETRAINED, worst)}")
    return said


def _brings(table: pd.DataFrame, name: str, worst: str) -> str:
    """The group that was worst before, and the one that is worst with this edit or that loses most."""
    rows = table[table["edit"] == name].set_index("group")
    said = f"“{worst}” to {in_percent(rows.loc[worst, 'accuracy'], 1)}: {change(rows.loc[worst])}"
    others = dict.fromkeys([rows["accuracy"].idxmin(), rows["change"].idxmin()])
    more = [
        f"“{group}” to {in_percent(rows.loc[group, 'accuracy'], 1)}: {change(rows.loc[group])}"
        for group in others if group != worst
    ]  # fmt: skip
    return " and ".join([said, *more]) + "."


def side_effects(repair: Repair) -> list[str]:
    """What else moves: predictions that were right, whole answers, the logits of other classes."""
    report = repair.report
    if repair.edit is None:
        return []
    row = report.axes["edit"].index(chosen_name(repair))
    right, now = report.values[0].bool(), report.values[row].bool()
    n_broken, n_mended = int((right & ~now).sum()), int((~right & now).sum())
    said = [
        f"Of {int(right.sum()):,} pictures that were right {n_broken:,} become wrong, and of {int((~right).sum()):,} "
        f"that were wrong {n_mended:,} become right."
    ]
    if bool(right.any()):
        by_name = {"the edit": [row], "random edits": [report.axes["edit"].index(name) for name in repair.random]}
        moved = "; ".join(f"{name}: {_answers(report, rows, right)}" for name, rows in by_name.items() if rows)
        kind = "KL divergence, in nats" if report.settings["output"] in WITH_PROBABILITIES else "squared difference"
        said.append(f"How far the answers to pictures that were right move ({kind}) – {moved}.")
    group, place = divmod(int(report.changes[row].abs().argmax()), report.changes.shape[-1])
    label = f"class {place}" if report.class_names is None else short_name(report.class_names[place])
    said.append(
        f"The logit that moves most is that of “{label}” in “{report.groups[group]}”: "
        f"{in_logits(float(report.changes[row, group, place]))} on average."
    )
    return said


def chosen_name(repair: Repair) -> str:
    """What the chosen edit is called in the report, where edits are named by their dose."""
    return next(name for name, dose in repair.doses.items() if dose == repair.dose)


def in_points(share: float) -> str:
    """A change of a share, in percentage points: "+4.1 points"."""
    return f"{_signed(100 * share)} points"


def change(row: pd.Series) -> str:
    """A change of accuracy and its interval: "+4.1 points [+1.3, +6.8]"."""
    return f"{in_points(row['change'])} [{_signed(100 * row['change_low'])}, {_signed(100 * row['change_high'])}]"


def in_cell(row: pd.Series) -> str:
    """A cell of a table: the accuracy, and how it changes: "76.3 % (+4.1 [+1.3, +6.8])"."""
    share = in_percent(row["accuracy"], 1)
    return share if row["edit"] == UNEDITED else f"{share} ({change(row).replace(' points', '')})"


def in_logits(value: float) -> str:
    """A change of logits: "+0.31"."""
    return true_minus(f"{value:+.2f}")


def _signed(value: float) -> str:
    return true_minus(f"{value:+.1f}")


def limit_of(repair: Repair) -> str:
    """What a group may lose: "1 point"."""
    assert repair.max_loss is not None
    return f"{100 * repair.max_loss:g} point{'s' * (repair.max_loss != 0.01)}"


def _goes(before: float, row: pd.Series) -> str:
    ends = [in_percent(share, 1) for share in (before, row["accuracy"])]
    return f"stays at {ends[0]}" if ends[0] == ends[1] else f"goes from {ends[0]} to {ends[1]}"


def _verdict(row: pd.Series) -> str:
    if row["change_high"] < 0:
        return " The edit harms the group that it was made for."
    if row["change_low"] <= 0:
        return " The interval holds 0: these pictures do not show that the edit helps."
    return ""


def _beyond(repair: Repair, row: pd.Series) -> str:
    if repair.max_loss is None or -row["change"] <= repair.max_loss + 1e-12:
        return ""
    return f" That is more than the limit of {limit_of(repair)}, which holds on the pictures for choosing."


def _answers(report: EditEvaluation, rows: list[int], right: torch.Tensor) -> str:
    means = {
        name: report.kl[rows][:, right & (report.of_image == i)].double().mean() for i, name in enumerate(report.groups)
    }
    return ", ".join(f"{float(mean):.3f} in “{name}”" for name, mean in means.items() if not mean.isnan())
