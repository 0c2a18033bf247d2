"""Labelled pictures at data-set scale through Hugging Face `datasets`: folder, Parquet file, hub name, ImageNet-S, demo.

Whatever the source, a row holds the undecoded picture, the index of its class in the model, and where there is one its mask.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import ClassLabel, Dataset, Image, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node

from vitlens.arguments import checked
from vitlens.data.cache_folder import cache_folder
from vitlens.data.demo_files import demo_folder
from vitlens.data.imagenet_s import is_imagenet_s, read_imagenet_s
from vitlens.data.label_maps import index_in_name, match_classes, read_class_map, to_index
from vitlens.data.mask_folder import MaskFolder
from vitlens.errors import InputError, nearest, printable
from vitlens.files import as_path

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")
MASK_COLUMNS = ("mask", "segmentation", "object_mask")
GROUP_COLUMN = "group"
SPLITS = ("validation", "val", "test", "train")
PictureRow = dict[str, Any]


@dataclass(frozen=True, repr=False)
class PictureSet:
    """Rows {"image", "label", "path"}, "group" where the source has groups, and "mask" (with "mask_value" or "object_id")
    where `has_masks`; `chunks` reads them.

    `image` and `mask` are undecoded: {"bytes", "path"}. `n` is None for a stream, whose length is not known. `label_names`
    are the data set's own, in the order of the model's classes where each is that of one class.
    """

    name: str
    table: Dataset | IterableDataset
    to_row: Callable[[PictureRow, int], PictureRow]
    has_masks: bool
    n: int | None
    label_names: list[str] | None = None
    per_class: int | None = None
    first: int | None = None

    def __repr__(self) -> str:
        length = "a stream of pictures" if self.n is None else f"{self.n:,} pictures"
        return f"PictureSet({self.name}: {length}{', with masks' if self.has_masks else ''})"

    def rows(self, places: Sequence[int]) -> list[PictureRow] | None:
        """The rows at these places, and no others are read; None of a stream, which has no places."""
        table = self.table
        return [self.to_row(table[i], i) for i in places] if isinstance(table, Dataset) else None

    def chunks(self, size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, list[PictureRow]]]:
        """Yields chunks of `size` rows with their numbers, for one process out of `world_size`.

        Whole chunks are shared among processes, so a chunk holds the same pictures for any number of processes.
        """
        table = self.table
        if isinstance(table, Dataset):
            plan: Any = Dataset.from_dict({"chunk": list(range(-(-len(table) // size)))})
            for entry in split_dataset_by_node(plan, rank, world_size):
                first = entry["chunk"] * size
                yield entry["chunk"], self.rows(range(first, min(first + size, len(table)))) or []
            return
        plan = IterableDataset.from_generator(self._stream, gen_kwargs={"size": size})
        for entry in split_dataset_by_node(plan, rank, world_size):
            yield entry["chunk"], entry["rows"]

    def _stream(self, size: int) -> Iterator[PictureRow]:
        gathered: list[PictureRow] = []
        chunk = n = 0
        counts: Counter[int] = Counter()
        for index, entry in enumerate(self.table):
            row = self.to_row(entry, index)
            counts[row["label"]] += 1
            if self.per_class is not None and counts[row["label"]] > self.per_class:
                continue
            gathered.append(row)
            n += 1
            if len(gathered) == size or n == self.first:
                yield {"chunk": chunk, "rows": gathered}
                gathered, chunk = [], chunk + 1
            if n == self.first:
                return
        if gathered:
            yield {"chunk": chunk, "rows": gathered}


@checked
def open_pictures(
    source: str | Path,
    class_names: Sequence[str] | None,
    n_classes: int,
    *,
    split: str | None = None,
    streaming: bool = False,
    n_images: int | None = None,
    per_class: int | None = None,
    drop_incomplete: bool = False,
    masks: str | Path | None = None,
    object_id: int | None = None,
    class_map: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
) -> PictureSet:
    """Opens labelled pictures for a model with these classes.

    Folders are matched with the classes by name. Without class names, folders that are called by numbers are the classes of
    these numbers where all of them are classes; else they count in timm's natural order (1, 2, 10), as timm counts when it
    trains on such a folder. The numbers of a table are the classes' indices.

    Args:
        source: "demo"; a folder with one folder per class, or of files that begin with the class's index ("0042_x.jpg");
            a folder in ImageNet-S' layout; a Parquet file; or a name on the Hugging Face hub.
        split: which split of the source; by default the first that exists of validation, test and train.
        streaming: read rows as they come, never the whole table.
        n_images: at most this many pictures, the first ones.
        per_class: at most this many pictures of each class, in the order of their paths.
        drop_incomplete: leave out classes that have fewer than `per_class` pictures, instead of refusing.
        masks: a folder of mask pictures, at the same relative path as the pictures (any picture ending), with or without the
            folder of the split; without the folders of the classes where file names tell which mask is whose.
        object_id: of masks of class ids, the object's; by default all but 0. See `vitlens.data.masks`.
        class_map: a JSON or two-column CSV file, from the data set's label (name or number) to the model's class.
        image_column, label_column: the columns of pictures and labels, if their names do not show them.
        group_column: the column with the group of each picture, which comes into its row as text; by default "group", where
            there is one. The demo has the groups "agreeing" and "conflicting".

    Raises:
        InputError: nothing there, columns or labels that cannot be found, labels outside the model's classes, fewer
            pictures of a class than `per_class`, masks that are missing.

    Examples:
        >>> import vitlens
        >>> model = vitlens.demo.load_demo_model()
        >>> vitlens.open_pictures("demo", model.class_names, model.cfg.n_classes, per_class=2)
        PictureSet(demo: 20 pictures, with masks)
    """
    name = str(source)
    real_names: dict[str, str] = {}
    columns: tuple[str, str | None, str | None] = ("image", "label", "mask")
    if name == "demo":
        table: Any = _demo_rows(split)
    elif is_imagenet_s(source):
        table = Dataset.from_list(read_imagenet_s(Path(source), split or "validation"))
        columns = ("image", "label", "mask" if "mask" in table.column_names else None)
    else:
        table, real_names = _load(name, split, streaming)
        columns = _columns(table, image_column, label_column)
        for column in (columns[0], columns[2]):
            if column is not None:
                table = table.cast_column(column, Image(decode=False))
    image, label, mask = columns
    group = _group_column(table, group_column)
    root = Path(name) if Path(name).is_dir() else None
    label_names, group_names = _label_names(table, label), _label_names(table, group)
    if class_map is not None:
        to_class = read_class_map(Path(class_map), label_names, class_names, n_classes)
    else:
        to_class = match_classes(label_names, class_names, n_classes, are_folders=root is not None)
    mask_files = None if masks is None else MaskFolder(as_path(masks, "masks"), root)

    def to_row(entry: PictureRow, index: int) -> PictureRow:
        picture = entry[image] or {"path": None, "bytes": None}
        path = entry.get("path") or picture.get("path") or f"row {index}"
        given = entry[label] if label is not None else index_in_name(path)
        if path in real_names:
            picture = {**picture, "path": real_names[path]}
        row = {"image": picture, "label": to_index(given, to_class, n_classes, path), "path": printable(path)}
        if group is not None:
            row["group"] = _group_name(entry[group], group_names, path)
        if mask_files is not None:
            row["mask"] = mask_files.of(real_names.get(path, path))
            row["object_id"] = object_id
        elif mask is not None:
            row["mask"] = entry[mask]
            row["mask_value"] = entry.get("mask_value")
            row["object_id"] = object_id
        return row

    has_masks = mask is not None or masks is not None
    if object_id is not None and not has_masks:
        raise InputError(f"{name} has no masks in which the class id {object_id} could be the object's")
    if isinstance(to_class, list) and sorted(to_class) == list(range(n_classes)):
        # In the order of the model's classes, which may differ from the data set's.
        assert label_names is not None
        label_names = [name for _, name in sorted(zip(to_class, label_names, strict=True))]
    if isinstance(table, IterableDataset):
        return PictureSet(name, table, to_row, has_masks, None, label_names, per_class, n_images)
    paths = _paths(table, image) if root is not None else None
    given = table[label] if label is not None else [index_in_name(path) for path in paths or _paths(table, image)]
    labels = [to_index(x, to_class, n_classes, f"picture {i}") for i, x in enumerate(given)]
    order = list(range(len(labels))) if paths is None else sorted(range(len(paths)), key=paths.__getitem__)
    chosen = _choose(order, labels, n_images, per_class, drop_incomplete, class_names)
    if not chosen:
        raise InputError(f"{name} holds no pictures")
    if mask_files is not None:
        # A missing mask is reported now, not in the middle of the run.
        names = table["path"] if "path" in table.column_names else _paths(table, image)
        for place in chosen:
            mask_files.of(real_names.get(names[place], names[place]))
    return PictureSet(name, table.select(chosen), to_row, has_masks, len(chosen), label_names)


def _demo_rows(split: str | None) -> Dataset:
    """The demo's pictures: "agreeing" or "conflicting" contexts as splits, both by default."""
    folder = demo_folder()
    table = pd.read_csv(folder / "pictures.csv")
    if split is not None:
        if split not in ("agreeing", "conflicting"):
            raise InputError(f'the demo has the splits "agreeing" and "conflicting", not {split!r}')
        table = table[(table["label"] == table["context"]) == (split == "agreeing")]
    rows = [
        {
            "image": {"path": str(folder / "pictures" / file), "bytes": None},
            "label": label,
            "path": file,
            "mask": {"path": str(folder / "masks" / file), "bytes": None},
            "group": kind,
        }
        for file, label, kind in zip(table["file"], table["label"].tolist(), table["kind"], strict=True)
    ]
    return Dataset.from_list(rows)


def _load(name: str, split: str | None, streaming: bool) -> tuple[Dataset | IterableDataset, dict[str, str]]:
    """The table, and the real paths of files whose names are no UTF-8, which tables cannot hold."""
    path = Path(name)
    kind = name
    files: dict[str, Any] = {}
    if path.is_dir():
        kind, files = "imagefolder", {"data_dir": name}
        folders = {entry.name for entry in path.iterdir() if entry.is_dir()}
        if folders and not folders & set(SPLITS):
            # Otherwise a single class's folder is not taken for a class.
            files["drop_labels"] = False
    elif path.suffix == ".parquet":
        if not path.is_file():
            raise InputError(f"there is no file {name}")
        kind, files = "parquet", {"data_files": name}
    elif path.suffix or name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise InputError(f"{name} is neither a folder, nor a Parquet file, nor a name on the hub")
    inside = list(path.rglob("*")) if path.is_dir() else []
    has_odd_names = any(printable(entry) != str(entry) for entry in inside)
    linked = next((entry for entry in inside if entry.is_symlink() and entry.is_dir()), None)
    if linked is not None:
        # The loader would skip it silently.
        raise InputError(
            f"{linked} is a link to a folder, which is not followed: copy the folder there, or link its files"
        )
    try:
        found = load_dataset(kind, streaming=streaming or has_odd_names, cache_dir=cache_folder(), **files)
    except Exception as error:
        # The loaders raise whatever their file systems and parsers do; what the user needs is the source and the reason.
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the pictures of {name} cannot be loaded: {reason or type(error).__name__}") from None
    if split is not None and split not in found:
        raise InputError(f"{name} has no split {split!r}; the nearest names are {nearest(split, found)}")
    table = found[split or next((usual for usual in SPLITS if usual in found), next(iter(found)))]
    return _with_printable_paths(table) if has_odd_names and not streaming else (table, {})


def _with_printable_paths(stream: IterableDataset) -> tuple[Dataset, dict[str, str]]:
    column = next(name for name, feature in stream.features.items() if isinstance(feature, Image))
    rows = list(stream.cast_column(column, Image(decode=False)))
    real_names = {}
    for row in rows:
        path = row[column]["path"]
        if path is not None:
            row[column] = {**row[column], "path": printable(path)}
            real_names[printable(path)] = path
    return Dataset.from_list(rows, features=stream.features), real_names


def _columns(table: Any, image: str | None, label: str | None) -> tuple[str, str | None, str | None]:
    names = list(table.features or next(iter(table)))
    features = table.features or {}
    for column in (image, label):
        if column is not None and column not in names:
            raise InputError(f"there is no column {column!r}; the nearest names are {nearest(column, names)}")
    pictures = [name for name in names if isinstance(features.get(name), Image)] or [
        name for name in names if name in ("image", "img")
    ]
    mask = next((name for name in MASK_COLUMNS if name in names and name != image), None)
    image = image or next((name for name in pictures if name != mask), None)
    if image is None:
        raise InputError(f"none of the columns {', '.join(names)} holds pictures: name it with image_column=")
    labelled = [name for name in names if isinstance(features.get(name), ClassLabel)]
    label = label or next((name for name in LABEL_COLUMNS if name in names), labelled[0] if labelled else None)
    return image, label, mask


def _group_column(table: Any, asked: str | None) -> str | None:
    names = list(table.features or next(iter(table)))
    if asked is None:
        return GROUP_COLUMN if GROUP_COLUMN in names else None
    if asked not in names:
        raise InputError(f"there is no column {asked!r}; the nearest names are {nearest(asked, names)}")
    return asked


def _group_name(given: Any, names: list[str] | None, path: str) -> str:
    """The group of a picture as text: the name where its column holds numbers of names."""
    if given is None:
        raise InputError(f"{printable(path)} has no group: give it one, or leave it out")
    return str(given) if names is None or not isinstance(given, int) else names[given]


def _label_names(table: Any, label: str | None) -> list[str] | None:
    feature = (table.features or {}).get(label)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _paths(table: Dataset, image: str) -> list[str]:
    return [(entry or {}).get("path") or f"row {i}" for i, entry in enumerate(table[image])]


def _choose(
    order: list[int],
    labels: list[int],
    n_images: int | None,
    per_class: int | None,
    drop_incomplete: bool,
    class_names: Sequence[str] | None,
) -> list[int]:
    if per_class is None:
        return order[:n_images]
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(labels[i], []).append(i)
    short = {label: found for label, found in by_class.items() if len(found) < per_class}
    if short and not drop_incomplete:
        label, found = next(iter(short.items()))
        called = class_names[label] if class_names else f"class {label}"
        raise InputError(
            f"{per_class} pictures per class are wanted, and {len(short)} classes have fewer (“{called}” has "
            f"{len(found)}): ask for fewer, or leave these classes out with drop_incomplete=True"
        )
    chosen = {i for label, found in by_class.items() if label not in short for i in found[:per_class]}
    return [i for i in order if i in chosen][:n_images]
