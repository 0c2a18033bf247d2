"""`vitlens repair`: chooses an edit that helps the worst group of pictures, reports on others, and saves the model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.editing.grouped import (
    ClassMap,
    GroupColumn,
    GroupedData,
    GroupedSource,
    GroupFile,
    LabelColumn,
    Split,
)
from vitlens.cli.options import BatchSize, Json, ModelOptions, Out, with_model
from vitlens.cli.output import Answer, check_out, hand_over, say
from vitlens.cli.shared import DEMO, is_watched
from vitlens.errors import InputError
from vitlens.files import check_writable

if TYPE_CHECKING:
    import pandas as pd

    from vitlens.editing.repairs import Repair
    from vitlens.model.hooked_vit import HookedViT

LIMIT = 0.01
DOSES = (0.25, 0.5, 0.75, 1.0)


@with_model
def repair(
    data: GroupedData = DEMO,
    split: Split = None,
    group_column: GroupColumn = None,
    group_file: GroupFile = None,
    class_map: ClassMap = None,
    label_column: LabelColumn = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="how much accuracy groups but the worst may lose, on the pictures that choose", show_default=str(LIMIT)
        ),
    ] = None,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="groups may lose any accuracy")] = False,
    dose: Annotated[
        list[float] | None,
        typer.Option(help="a dose of the edits, 1 is all of it; several times [default: 0.25, 0.5, 0.75, 1]",
                     show_default=False),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="the share of the pictures that the report is about, and that choose nothing")
    ] = 0.5,
    n_draws: Annotated[int, typer.Option(min=1, help="random edits to compare with")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="of the split and the random edits")] = 0,
    save: Annotated[
        Path | None,
        typer.Option(
            help="write the repaired model: a .safetensors file, or a folder that the model's library opens",
            show_default=False,
        ),
    ] = None,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: Out = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Repair a shortcut: choose an edit of the model that helps the worst group, and report it on held-out pictures."""
    # The call has the command's name.
    from vitlens.editing.repairs import repair as choose_edit
    from vitlens.editing.saving import check_is_checkpoint

    check_out(out)
    if no_limit and max_loss is not None:
        raise InputError("--max-loss sets a limit and --no-limit takes it away: give one of them")
    if save is not None and check_is_checkpoint(save):
        check_writable(save)
    source = GroupedSource(data, split, group_column, group_file, class_map, label_column)
    source.check()
    hooked = model.load()
    pictures = source.open(hooked)
    found = choose_edit(
        hooked, pictures.images, pictures.labels, pictures.groups,
        max_loss=None if no_limit else LIMIT if max_loss is None else max_loss,
        doses=dose or DOSES, held_out=held_out, clusters=pictures.clusters, n_draws=n_draws, seed=seed,
        batch_size=batch_size, progress=is_watched(),
    )  # fmt: skip
    saved, refused = _saved(found, save)
    hand_over(_answer(found, hooked, saved), out, as_json)
    if refused is not None:
        # What was found is handed over all the same.
        raise refused
    if saved is not None and not as_json:
        say(f"saved the repaired model to {saved}")


def _saved(found: "Repair", path: Path | None) -> tuple[Path | None, InputError | None]:
    """Where the repaired model was saved, and why it could not be."""
    if path is None or found.edit is None:
        return None, None
    try:
        found.edit.save(path)
    except InputError as error:
        return None, error
    return path, None


def _answer(found: "Repair", hooked: "HookedViT", saved: Path | None) -> Answer:
    from vitlens.pages.repair_page import repair_facts, repair_sections
    from vitlens.pages.repair_sentences import baselines, choice, outcome, side_effects

    table = found.table()
    notes = [*choice(found), *outcome(found, table), *baselines(found, table), *side_effects(found)]
    parts = {} if found.shortcut is None else {"parts": found.shortcut.table()}
    return Answer(
        "repair",
        hooked.cfg.model_name,
        table,
        {
            "chosen": found.chosen,
            "edit": None if found.edit is None else repr(found.edit),
            "saved": saved,
            "trade_off": found.trade_off(),
            **parts,
        },
        [(f"{len(found.report.of_image):,} held-out pictures", _shown(table))],
        lambda: repair_sections(found),
        found.plot,
        f"A repair of {hooked.cfg.model_name}",
        facts=repair_facts(found),
        notes=notes,
        settings={"max_loss": found.max_loss, **found.settings},
        hooked=hooked,
    )


def _shown(table: "pd.DataFrame") -> Any:
    """The report with an edit in each row, and the accuracy of each group with its change; all is in the file."""
    from vitlens.pages.repair_sentences import in_cell

    rows = table.assign(cell=[in_cell(row) for _, row in table.iterrows()])
    wide = rows.pivot(index="edit", columns="group", values="cell")
    return wide.loc[list(dict.fromkeys(rows["edit"])), list(dict.fromkeys(rows["group"]))].reset_index()
