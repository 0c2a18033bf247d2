"""Writes the page of a repair: what was found, what was tried, what was chosen, and what that does and costs."""

from pathlib import Path

from vitlens.arguments import checked
from vitlens.editing.evaluation import UNEDITED
from vitlens.editing.repairs import RETRAINED, Repair
from vitlens.files import check_writable
from vitlens.pages import repair_sentences as say
from vitlens.pages.page import Section, write_page
from vitlens.plots.editing.evaluation import edit_changes
from vitlens.plots.editing.repair import dose_curves, repair_table, repair_trade_off


@checked
def write_repair_page(
    repair: Repair,
    *,
    path: str | Path,
    title: str | None = None,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file to write.
        title: by default names the model.

    Raises:
        InputError: the folder does not exist or cannot be written to.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> edits = {"half of L2H1": vitlens.edit(model, "L2H1", dose=0.5)}
        >>> groups = ["agreeing", "conflicting"] * 50
        >>> found = vitlens.repair(model, images, labels, groups, edits=edits, n_draws=1)
        >>> vitlens.pages.write_repair_page(found, path="repair.html")
    """
    check_writable(path)
    settings = repair.report.settings
    write_page(
        path,
        title or f"A repair of {settings['model']}",
        {**settings["provenance"], **repair_facts(repair)},
        repair_sections(repair),
        warning=settings["warning"],
    )


def repair_facts(repair: Repair) -> dict[str, str]:
    """What must be known of the pictures and the limit."""
    parts = (repair.candidates, repair.report)
    counts = [
        f"{name} ({sum(int((part.of_image == part.groups.index(name)).sum()) for part in parts):,})"
        for name in repair.report.groups
    ]
    limit = "none" if repair.max_loss is None else f"{say.limit_of(repair)} in any other group"
    return {
        "pictures": f"{len(repair.candidates.of_image):,} for choosing, {len(repair.report.of_image):,} held out",
        "groups": ", ".join(counts),
        "limit of losses": limit,
    }


def repair_sections(repair: Repair) -> list[Section]:
    """The sections of the page."""
    table = repair.table()
    sections = [Section("What came of it", "\n".join(say.outcome(repair, table)))]
    if repair.shortcut is not None:
        sections.append(
            Section(
                "Which parts carry the shortcut", "\n".join(say.found_parts(repair.shortcut)), [repair.shortcut.plot()]
            )
        )
    sections += [
        Section("What was tried", "\n".join(say.choice(repair)), [repair_trade_off(repair)]),
        Section("The report", _how_to_read(repair), [repair_table(repair), dose_curves(repair)]),
        Section("Beside it: other edits and the last layer", "\n".join(say.baselines(repair, table))),
    ]
    if repair.edit is not None:
        # A new last layer has logits of another size: beside it those of edits would be pale.
        shown = [name for name in repair.report.axes["edit"] if name != RETRAINED]
        sections.append(
            Section("What else moves", "\n".join(say.side_effects(repair)), [edit_changes(repair.report, shown)])
        )
    return [*sections, Section("The same in Python", _how_to_save(repair), code=python_call(repair))]


def python_call(repair: Repair) -> str:
    """The lines that do the same, and save the repaired model."""
    settings = repair.settings
    given = {
        "edits": "edits" if settings.get("edits") == "given" else None,
        "max_loss": repair.max_loss,
        "held_out": "held_out" if settings.get("held_out") == "given" else settings.get("held_out"),
        "seed": settings.get("seed"),
    }
    named = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None or name == "max_loss")
    lines = [
        "import vitlens",
        "",
        f"model = {repair.report.settings['call']}",
        "# images, the class and the group of each; clusters= where several pictures show one object",
        f"found = vitlens.repair(model, images, labels, groups, {named})",
        "found.table()",
    ]
    if repair.edit is not None:
        lines += [
            "with model.hooks(found.edit.hooks):",
            "    model(images)  # the repaired model, for any analysis",
            'found.edit.save("repaired.safetensors")  # an ordinary checkpoint',
        ]
    return "\n".join(lines)


def _how_to_read(repair: Repair) -> str:
    if repair.edit is None:
        return f"No edit was chosen, so the report is of the {UNEDITED} model and of what stands beside it."
    return (
        "The change of accuracy is of the same pictures, so its interval is narrower than those of two accuracies. Doses: 0 "
        "is the unedited model, 1 the whole edit."
    )


def _how_to_save(repair: Repair) -> str:
    if repair.edit is None:
        return ""
    return (
        f"The chosen edit is {repair.edit!r}. Folded into the weights it needs no vitlens: the last line writes a file, or "
        "a folder, that the model's own library reads."
    )
