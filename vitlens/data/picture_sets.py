"""Labelled pictures at data-set scale through Hugging Face `datasets`: folder, Parquet file, hub name, ImageNet-S, demo.

Whatever the source, a row holds the undecoded picture, the index of its class in the model, and where there is one its mask.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import ClassLabel, Dataset, Image, IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node
from timm.data import ImageNetInfo

from vitlens.data.cache_folder import cache_folder
from vitlens.data.class_names import find_class
from vitlens.data.demo import demo_folder
from vitlens.data.imagenet_s import is_imagenet_s, read_imagenet_s
from vitlens.errors import InputError, nearest

LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")
MASK_COLUMNS = ("mask", "segmentation", "object_mask")
SPLITS = ("validation", "val", "test", "train")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
Row = dict[str, Any]


@dataclass(frozen=True)
class PictureSet:
    """Rows {"image", "label", "path"}, and "mask" (with "mask_value") where `has_masks`, which `chunks` reads.

    `image` and `mask` are undecoded: {"bytes", "path"}. `n` is None for a stream, whose length is not known. `label_names`
    are the data set's own.
    """

    name: str
    table: Dataset | IterableDataset
    to_row: Callable[[Row, int], Row]
    has_masks: bool
    n: int | None
    label_names: list[str] | None = None
    per_class: int | None = None
    first: int | None = None

    def chunks(self, size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[int, list[Row]]]:
        """The rows by chunks of `size`, with the number of each: those of one process out of `world_size`.

        What is split among processes are whole chunks, so a chunk holds the same pictures however many processes share
        the work.
        """
        table = self.table
        if isinstance(table, Dataset):
            plan: Any = Dataset.from_dict({"chunk": list(range(-(-len(table) // size)))})
            for entry in split_dataset_by_node(plan, rank, world_size):
                first = entry["chunk"] * size
                places = range(first, min(first + size, len(table)))
                yield entry["chunk"], [self.to_row(table[i], i) for i in places]
            return
        plan = IterableDataset.from_generator(self._stream, gen_kwargs={"size": size})
        for entry in split_dataset_by_node(plan, rank, world_size):
            yield entry["chunk"], entry["rows"]

    def _stream(self, size: int) -> Iterator[Row]:
        gathered: list[Row] = []
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


def open_pictures(
    source: str | Path,
    class_names: Sequence[str] | None,
    n_classes: int,
    *,
    split: str | None = None,
    streaming: bool = False,
    n: int | None = None,
    per_class: int | None = None,
    drop_incomplete: bool = False,
    masks: str | Path | None = None,
    class_map: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> PictureSet:
    """Opens labelled pictures for a model with these classes.

    Args:
        source: "demo"; a folder with one folder per class, or of files that begin with the class's index ("0042_x.jpg");
            a folder in ImageNet-S' layout; a Parquet file; or a name on the Hugging Face hub.
        split: of a source with several; by default validation, test or train, whichever there is first.
        streaming: read rows as they come, never the whole table.
        n: only the first so many pictures.
        per_class: only the first so many pictures of each class, in the order of their paths.
        drop_incomplete: leave out classes that have fewer than `per_class` pictures, instead of refusing.
        masks: a folder of mask pictures, at the same relative path as the pictures (any picture ending).
        class_map: a JSON or two-column CSV file, from the data set's label (name or number) to the model's class.
        image_column, label_column: where the names of a table's columns do not tell.

    Raises:
        InputError: nothing there, columns or labels that cannot be told, labels outside the model's classes, fewer
            pictures of a class than asked for, masks that are missing.
    """
    name = str(source)
    columns: tuple[str, str | None, str | None] = ("image", "label", "mask")
    if name == "demo":
        table: Any = _demo_rows(split)
    elif is_imagenet_s(source):
        table = Dataset.from_list(read_imagenet_s(Path(source), split or "validation"))
        columns = ("image", "label", "mask" if "mask" in table.column_names else None)
    else:
        table = _load(name, split, streaming)
        columns = _columns(table, image_column, label_column)
        for column in (columns[0], columns[2]):
            if column is not None:
                table = table.cast_column(column, Image(decode=False))
    image, label, mask = columns
    label_names = _label_names(table, label)
    if class_map is not None:
        to_class = _read_class_map(Path(class_map), label_names, class_names, n_classes)
    else:
        to_class = _match_classes(label_names, class_names, n_classes)
    root = Path(name) if Path(name).is_dir() else None
    mask_files = None if masks is None else _find_masks(Path(masks))

    def to_row(entry: Row, index: int) -> Row:
        path = entry.get("path") or entry[image].get("path") or f"row {index}"
        given = entry[label] if label is not None else _index_in_name(path)
        row = {"image": entry[image], "label": _to_index(given, to_class, n_classes, path), "path": path}
        if mask_files is not None:
            row["mask"] = _mask_of(path, root, mask_files, str(masks))
        elif mask is not None:
            row["mask"] = entry[mask]
            row["mask_value"] = entry.get("mask_value")
        return row

    has_masks = mask is not None or masks is not None
    if isinstance(table, IterableDataset):
        return PictureSet(name, table, to_row, has_masks, None, label_names, per_class, n)
    paths = _paths(table, image) if root is not None else None
    given = table[label] if label is not None else [_index_in_name(path) for path in paths or _paths(table, image)]
    labels = [_to_index(x, to_class, n_classes, f"picture {i}") for i, x in enumerate(given)]
    order = list(range(len(labels))) if paths is None else sorted(range(len(paths)), key=paths.__getitem__)
    chosen = _choose(order, labels, n, per_class, drop_incomplete, class_names)
    if not chosen:
        raise InputError(f"{name} holds no pictures")
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
        }
        for file, label in zip(table["file"], table["label"].tolist(), strict=True)
    ]
    return Dataset.from_list(rows)


def _load(name: str, split: str | None, streaming: bool) -> Dataset | IterableDataset:
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
    elif path.suffix or name.startswith((".", "/")):
        raise InputError(f"{name} is neither a folder, nor a Parquet file, nor a name on the hub")
    try:
        found = load_dataset(kind, streaming=streaming, cache_dir=cache_folder(), **files)
    except Exception as error:
        # The loaders raise whatever their file systems and parsers do; what the user needs is the source and the reason.
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the pictures of {name} cannot be loaded: {reason or type(error).__name__}") from None
    if split is not None and split not in found:
        raise InputError(f"{name} has no split {split!r}; the nearest names are {nearest(split, found)}")
    return found[split or next((usual for usual in SPLITS if usual in found), next(iter(found)))]


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


def _label_names(table: Any, label: str | None) -> list[str] | None:
    feature = (table.features or {}).get(label)
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def _paths(table: Dataset, image: str) -> list[str]:
    return [entry["path"] or f"row {i}" for i, entry in enumerate(table[image])]


def _index_in_name(path: str) -> int:
    start = Path(path).name.split("_")[0]
    if not start.isdigit():
        raise InputError(
            f"{path} has no label: put each class's pictures in a folder of its own, or begin file names with the class's "
            "index and an underscore (0042_x.jpg)"
        )
    return int(start)


def _match_classes(
    label_names: list[str] | None, class_names: Sequence[str] | None, n_classes: int
) -> list[int] | None:
    """The model's class of each label of the data set; None where they are the same numbers."""
    if label_names is None:
        return None
    if all(name.isdigit() for name in label_names):
        return [int(name) for name in label_names]
    if n_classes == 1000 and all(name.startswith("n") and name[1:].isdigit() for name in label_names):
        info = ImageNetInfo()
        index = {info.index_to_label_name(i): i for i in range(1000)}
        if all(name in index for name in label_names):
            return [index[name] for name in label_names]
    if class_names is not None:
        try:
            return [find_class(name.replace("_", " "), class_names, n_classes) for name in label_names]
        except InputError:
            pass
    if len(label_names) == n_classes and class_names is None:
        return None
    raise InputError(
        f"the data set's {len(label_names)} labels ({', '.join(label_names[:3])}, …) are not the names of the model's "
        f"{n_classes} classes: say which is which with class_map="
    )


def _read_class_map(
    path: Path, label_names: list[str] | None, class_names: Sequence[str] | None, n_classes: int
) -> Any:
    try:
        if path.suffix == ".json":
            table = {str(key): value for key, value in json.loads(path.read_text()).items()}
        else:
            frame = pd.read_csv(path, header=None, dtype=str)
            table = dict(zip(frame[0], frame[1], strict=True))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no map from labels to classes (JSON object or two-column CSV): {error}") from None
    found = {key: find_class(value, class_names, n_classes) for key, value in table.items()}
    if label_names is None:
        return found
    missing = [name for name in label_names if name not in found]
    if missing:
        raise InputError(f"{path} does not say which class {missing[0]!r} is (and {len(missing) - 1} more)")
    return [found[name] for name in label_names]


def _to_index(label: Any, to_class: Any, n_classes: int, where: str) -> int:
    if isinstance(to_class, dict):
        if str(label) not in to_class:
            raise InputError(f"the class map does not say which class the label {label!r} of {where} is")
        index = to_class[str(label)]
    else:
        index = int(label) if to_class is None else to_class[int(label)]
    if not 0 <= index < n_classes:
        raise InputError(
            f"the label {index} of {where} is none of the model's classes 0 to {n_classes - 1}: pass the model that these "
            "labels belong to, or a class map"
        )
    return index


def _choose(
    order: list[int],
    labels: list[int],
    n: int | None,
    per_class: int | None,
    drop_incomplete: bool,
    class_names: Sequence[str] | None,
) -> list[int]:
    if per_class is None:
        return order[:n]
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(labels[i], []).append(i)
    short = {label: found for label, found in by_class.items() if len(found) < per_class}
    if short and not drop_incomplete:
        label, found = next(iter(short.items()))
        called = class_names[label] if class_names else f"class {label}"
        raise InputError(
            f"{per_class} pictures per class were asked for, and {len(short)} classes have fewer (“{called}” has "
            f"{len(found)}): ask for fewer, or leave these classes out with drop_incomplete (--drop-incomplete)"
        )
    chosen = {i for label, found in by_class.items() if label not in short for i in found[:per_class]}
    return [i for i in order if i in chosen][:n]


def _find_masks(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise InputError(f"there is no folder of masks {folder}")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS]
    return {str(path.relative_to(folder).with_suffix("")): str(path) for path in files}


def _mask_of(path: str, root: Path | None, files: dict[str, str], folder: str) -> Row:
    relative = Path(path).relative_to(root) if root is not None and Path(path).is_relative_to(root) else Path(path)
    key = next((k for k in (str(relative.with_suffix("")), relative.stem) if k in files), None)
    if key is None:
        raise InputError(f"{path} has no mask in {folder}: expected a picture at {relative.with_suffix('.png')} there")
    return {"path": files[key], "bytes": None}
