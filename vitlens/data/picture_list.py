"""Lists the pictures of a run by their content, because files may change while a run is stopped."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vitlens.arguments import bar_hidden
from vitlens.data.picture_sets import PictureRow, PictureSet
from vitlens.errors import InputError
from vitlens.files import write_whole

LIST_COLUMNS = ["path", "label", "picture", "mask"]
UNREADABLE = "unreadable"
#: Rows that are read at a time.
AT_ONCE = 256


def list_pictures(pictures: PictureSet, workers: int = 4, progress: bool | None = False) -> pd.DataFrame | None:
    """One row for each picture: path, label, and hashes of what picture and mask hold; None for a stream.

    All files are read once, which takes a small part of the time that decoding them takes.
    """
    if pictures.n is None:
        return None
    found = []
    chunks = (rows for _, rows in pictures.chunks(AT_ONCE))
    with tqdm(total=pictures.n, desc="reading pictures", unit="picture", disable=bar_hidden(progress, None)) as bar:
        for rows in chunks:
            found.append(list_rows(rows, workers))
            bar.update(len(rows))
    return pd.concat(found, ignore_index=True)


def list_rows(rows: Sequence[PictureRow], workers: int = 4) -> pd.DataFrame:
    """`list_pictures` for some rows of a picture set."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return pd.DataFrame(pool.map(_entry, rows), columns=LIST_COLUMNS)


def as_digest(listed: pd.DataFrame) -> str:
    """A list of pictures in sixteen letters."""
    text = listed.to_json(orient="values")
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def keep_list(path: Path, listed: pd.DataFrame, must_exist: bool = False) -> None:
    """Writes the list, or makes sure that the one that is there is the same.

    Raises:
        InputError: another list (what has changed is named); with `must_exist`, none.
    """
    if path.exists():
        try:
            before = pq.read_table(path).to_pandas()[LIST_COLUMNS]
        except (pa.ArrowException, OSError, KeyError):
            if must_exist:
                raise InputError(
                    f"{path}, the list of the run's pictures, cannot be read: choose another folder"
                ) from None
        else:
            change = changed(before.itertuples(index=False, name=None), listed.itertuples(index=False, name=None))
            if change is not None:
                raise InputError(
                    f"{path.parent} holds a run on other pictures: {change}. Choose another folder (path=), or "
                    "delete that one"
                )
            return
    elif must_exist:
        raise InputError(f"{path.parent} holds records without the list of their pictures: choose another folder")
    buffer = io.BytesIO()
    listed.to_parquet(buffer, index=False)
    write_whole(path, buffer.getvalue())


def changed(before: Iterable[Sequence[Any]], now: Iterable[Sequence[Any]]) -> str | None:
    """The first difference between two lists of pictures, as text; None if they agree."""
    old, new = list(before), list(now)
    old_paths, new_paths = [row[0] for row in old], [row[0] for row in new]
    for paths, others, what in ((old_paths, new_paths, "is gone"), (new_paths, old_paths, "is new")):
        lacking = sorted(set(paths) - set(others))
        if lacking:
            return f"{lacking[0]} {what}{_more(lacking)}"
    if old_paths != new_paths:
        return "their order is another"
    for column, sentence in (
        (1, "the label of {path} was {old} and is {new}"),
        (2, "{path} holds another picture"),
        (3, "the mask of {path} is another"),
    ):
        differing = [(a, b) for a, b in zip(old, new, strict=True) if a[column] != b[column]]
        if differing:
            a, b = differing[0]
            if a[column] == UNREADABLE:
                sentence = "{path} could not be read, and now can"
            return sentence.format(path=a[0], old=a[column], new=b[column]) + _more(differing)
    return None


def _more(found: Sequence[Any]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _entry(row: PictureRow) -> tuple[str, int, str, str]:
    mask = "" if row.get("mask") is None else _hash(row["mask"])
    if row.get("mask_value") is not None:
        mask += f":{row['mask_value']}"
    return str(row["path"]), int(row["label"]), _hash(row["image"]), mask


def _hash(source: dict[str, Any]) -> str:
    """The hash of an undecoded picture; the run itself skips and lists a picture that cannot be read."""
    try:
        content = source.get("bytes") or Path(source["path"]).read_bytes()
    except (OSError, ValueError, TypeError):
        return UNREADABLE
    return hashlib.blake2b(content, digest_size=8).hexdigest()
