"""`vitlens shortcut`: which parts of a model carry a shortcut."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitlens.cli.editing.grouped import (
    ClassMap,
    GroupColumn,
    GroupedData,
    GroupedPictures,
    GroupedSource,
    GroupFile,
    LabelColumn,
    Split,
    group_counts,
)
from vitlens.cli.names import SHORTCUT_PARTS, one_of
from vitlens.cli.options import BatchSize, Json, ModelOptions, ResultOut, with_model
from vitlens.cli.output import WRITTEN, Answer, check_out, hand_over
from vitlens.cli.shared import DEMO, is_watched
from vitlens.results.writing import RESULTS

if TYPE_CHECKING:
    from vitlens.editing.search.shortcut_result import Shortcut
    from vitlens.model.hooked_vit import HookedViT
    from vitlens.pages.page import Section


@with_model
def shortcut(
    data: GroupedData = DEMO,
    split: Split = None,
    group_column: GroupColumn = None,
    group_file: GroupFile = None,
    class_map: ClassMap = None,
    label_column: LabelColumn = None,
    contrast: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="two groups, the first compared with the second [default: the least accurate with all others]",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help=f"what is compared: {', '.join(SHORTCUT_PARTS)}; several times [default: heads and mlps]",
            autocompletion=one_of(*SHORTCUT_PARTS), show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many parts are shown, those that differ most")] = 12,
    n_draws: Annotated[int, typer.Option(min=100, help="shuffles of the test and draws of the intervals")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of everything that is drawn")] = 0,
    *,
    model: ModelOptions,
    batch_size: BatchSize = 16,
    out: ResultOut = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Find the parts that carry a shortcut: what they write for the class differs between groups of pictures."""
    from vitlens.editing.search.shortcut import find_shortcut

    check_out(out, (*WRITTEN, *RESULTS))
    source = GroupedSource(data, split, group_column, group_file, class_map, label_column)
    source.check()
    hooked = model.load()
    pictures = source.open(hooked)
    found = find_shortcut(
        hooked, pictures.images, pictures.labels, pictures.groups, contrast=contrast,
        parts=part or ("heads", "mlps"), clusters=pictures.clusters, n_draws=n_draws, seed=seed, batch_size=batch_size,
        progress=is_watched(),
    )  # fmt: skip
    hand_over(_answer(found, hooked, pictures, top), out, as_json)


def _answer(found: "Shortcut", hooked: "HookedViT", pictures: GroupedPictures, top: int) -> Answer:
    from vitlens.pages.repair_sentences import found_parts

    # A loss of nothing has no sign.
    table, settings = found.table().assign(lost_accuracy=lambda rows: rows["lost_accuracy"] + 0.0), found.settings
    inside, outside = settings["inside"], " and ".join(settings["outside"])
    columns = {
        "component": "part",
        "difference": f"{inside} minus {outside}",
        "p": "p",
        **{f"change_{name}": f"ablated, {name}" for name in found.axes["group"]},
        "gained_accuracy": f"gained in {inside}",
        "lost_accuracy": f"lost in {outside}",
    }
    shown = table[list(columns)].head(top).rename(columns=columns)
    return Answer(
        "shortcut",
        hooked.cfg.model_name,
        found.to_frame(),
        {"parts": table, "strongest": found.strongest()},
        [("shares of the margin, and what ablating each part alone does", shown)],
        lambda: _sections(found),
        found.plot,
        f"Parts of {hooked.cfg.model_name} that carry a shortcut",
        facts={"pictures": f"{len(pictures.labels):,}", "groups": group_counts(pictures.groups)},
        notes=found_parts(found),
        settings=settings,
        hooked=hooked,
        result=found,
    )  # fmt: skip


def _sections(found: "Shortcut") -> "list[Section]":
    from vitlens.pages.page import Section
    from vitlens.pages.repair_sentences import found_parts

    figures: list[Any] = [found.plot()]
    return [Section("Which parts carry the shortcut", "\n".join(found_parts(found)), figures)]
