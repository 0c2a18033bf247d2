"""Labelled pictures in groups, of a folder, a table or the demo, as `vitlens shortcut` and `vitlens repair` read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitlens.cli.shared import DEMO
from vitlens.errors import InputError, printable, reason

if TYPE_CHECKING:
    from vitlens.data.picture_sets import PictureSet
    from vitlens.model.hooked_vit import HookedViT

GroupedData = Annotated[
    str,
    typer.Option(
        "--data", help='labelled pictures: a folder with one folder for each class, a Parquet file, or "demo"'
    ),
]
Split = Annotated[str | None, typer.Option(help="which split of the data", show_default=False)]
GroupColumn = Annotated[
    str | None,
    typer.Option(help='the column with the group of each picture [default: "group"]', show_default=False),
]
GroupFile = Annotated[
    Path | None,
    typer.Option(
        "--groups",
        help="instead: a CSV file of two columns, a picture (its path in the folder, or its name) and its group",
        show_default=False,
    ),
]
ClassMap = Annotated[
    Path | None,
    typer.Option(help="JSON or CSV: label of the data → class of the model", show_default=False),
]
LabelColumn = Annotated[str | None, typer.Option(help="the table's column of labels", show_default=False)]


@dataclass(frozen=True)
class GroupedPictures:
    """Pictures, and of each its class and its group; those with one number in `clusters` show the same object."""

    images: "PictureSet"
    labels: list[int]
    groups: list[str]
    clusters: list[int] | None = None


@dataclass(frozen=True)
class GroupedSource:
    """What the options say of the pictures and their groups."""

    data: str
    split: str | None = None
    group_column: str | None = None
    group_file: Path | None = None
    class_map: Path | None = None
    label_column: str | None = None

    def check(self) -> None:
        """Raises InputError for options that do not go together, before the model is loaded."""
        if self.group_column is not None and self.group_file is not None:
            raise InputError("--group-column and --groups both say which group a picture is in: give one of them")
        if self.group_file is not None:
            read_group_file(self.group_file)

    def open(self, model: "HookedViT") -> GroupedPictures:
        """Opens the pictures, and reads the class and the group of each.

        Raises:
            InputError: as `open_pictures`; pictures without groups.
        """
        from vitlens.data.picture_sets import open_pictures
        from vitlens.editing.labelled import rows_without_bytes

        pictures = open_pictures(
            self.data, model.class_names, model.cfg.n_classes, split=self.split, class_map=self.class_map,
            label_column=self.label_column, group_column=self.group_column,
        )  # fmt: skip
        rows = list(rows_without_bytes(pictures))
        if self.group_file is not None:
            given = read_group_file(self.group_file)
            groups = [_group_of(row["path"], given, self.data, self.group_file) for row in rows]
        elif rows and "group" in rows[0]:
            groups = [row["group"] for row in rows]
        else:
            raise InputError(
                f"{self.data} does not say which group a picture is in: name its column with --group-column, or give a CSV "
                "file of pictures and their groups with --groups"
            )
        # The demo shows each object twice, on its own class's texture and on another's.
        clusters = [i // 2 for i in range(len(rows))] if self.data == DEMO else None
        return GroupedPictures(pictures, [row["label"] for row in rows], groups, clusters)


def read_group_file(path: Path) -> dict[str, str]:
    """The group of each picture that a CSV file names.

    Raises:
        InputError: a file that cannot be read as two columns, or that names a picture twice.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig", keep_default_na=False)
        pairs = list(zip(frame[0].str.strip(), frame[1].str.strip(), strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is no table of pictures and their groups (CSV of two columns): {reason(error)}"
        ) from None
    found: dict[str, str] = {}
    for picture, group in pairs:
        if picture in found:
            raise InputError(f"{path} says twice which group {picture} is in")
        found[picture] = group
    return found


def _group_of(picture: str, groups: dict[str, str], data: str, file: Path) -> str:
    path, folder = Path(picture).absolute(), Path(data).absolute()
    names = [picture, path.name]
    if path.is_relative_to(folder):
        names.insert(1, path.relative_to(folder).as_posix())
    found = next((groups[name] for name in names if name in groups), None)
    if found is None:
        raise InputError(f"{file} does not say which group {picture} is in")
    return found


def group_counts(groups: list[str]) -> str:
    """Such as "agreeing (50), conflicting (50)"."""
    return ", ".join(f"{printable(name)} ({groups.count(name):,})" for name in dict.fromkeys(groups))
