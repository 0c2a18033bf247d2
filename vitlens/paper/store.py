"""Keeps the records of a run: one Parquet file per chunk of pictures, written whole or not at all."""

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vitlens.data.decoded_batches import Skipped
from vitlens.data.picture_list import as_digest, changed, keep_list, list_rows
from vitlens.data.picture_sets import PictureRow
from vitlens.errors import InputError
from vitlens.files import LOCK, PARTIAL, make_folder, only_process_in, write_whole
from vitlens.paper.run_facts import difference

LOG = logging.getLogger(__name__)
KEYS = "key"
SETTINGS, PICTURES = "settings.json", "pictures.parquet"


class Store:
    """A folder: settings.json, pictures.parquet (which pictures), records/ (numbers of every picture), tables/, figures/,
    report.html."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"

    @contextmanager
    def opened(self, description: dict[str, Any], list_them: Callable[[], pd.DataFrame | None]) -> Iterator[None]:
        """Makes the folder, or makes sure that what it holds was computed in the same way; no other process comes in.

        Args:
            description: of the run, as `run_facts` makes it.
            list_them: makes the list of the run's pictures, as `list_pictures` does; None for a stream, of which the
                pictures of finished chunks are compared when they come by.

        Raises:
            InputError: a folder of other settings or pictures (the difference is named), of something else, not writable, or
                in which another process works.
        """
        make_folder(self.folder)
        path = self.folder / SETTINGS
        if not path.exists() and any(not _is_passing(entry) for entry in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no run of ours: choose another folder (path=)")
        with only_process_in(self.folder):
            if path.exists():
                self._compare(path, description)
            listed = list_them()
            if not path.exists():
                # The settings come first: a folder with anything else in it but no settings is not ours.
                known = description | {"pictures": None if listed is None else as_digest(listed)}
                write_whole(path, (json.dumps(known, indent=2, default=str) + "\n").encode())
            make_folder(self.records)
            self._tidy()
            if listed is not None:
                keep_list(self.folder / PICTURES, listed, must_exist=any(self.records.iterdir()))
            yield

    def _compare(self, path: Path, description: dict[str, Any]) -> None:
        try:
            before = json.loads(path.read_text())
            change = difference(before, json.loads(json.dumps(description, default=str)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{path} is not the settings of a run: choose another folder") from None
        if change is not None:
            raise InputError(
                f"{self.folder} holds a run with other settings: {change}. Choose another folder (path=), "
                "or delete that one"
            )
        threads, now = before.get("threads"), description.get("threads")
        if threads != now:
            LOG.warning(
                "%s was begun with %s threads and goes on with %s: last digits may differ from those of one run in one go",
                self.folder, threads, now,
            )  # fmt: skip

    def _tidy(self) -> None:
        """Removes the partial files of killed processes; no other process works in this folder."""
        for folder in (self.folder, self.records):
            for entry in folder.iterdir():
                if entry.name.endswith(PARTIAL) and entry.is_file():
                    entry.unlink(missing_ok=True)

    @property
    def run(self) -> str:
        """What every record of this run holds, so that a record of another run is recognised."""
        return hashlib.blake2b((self.folder / SETTINGS).read_bytes(), digest_size=8).hexdigest()

    def path_of(self, chunk: int) -> Path:
        return self.records / f"{chunk:06d}.parquet"

    def refuse_foreign(self, n_chunks: int | None) -> None:
        """Raises InputError for a file that is of none of the `n_chunks` chunks (None: their number is not known)."""
        for entry in sorted(self.records.iterdir()):
            if entry.name.endswith(PARTIAL):
                continue
            number = re.fullmatch(r"(\d{6,})\.parquet", entry.name)
            if number and (n_chunks is None or int(number[1]) < n_chunks) and entry.is_file():
                continue
            names = "" if n_chunks is None else f" ({self.path_of(0).name} to {self.path_of(n_chunks - 1).name})"
            raise InputError(f"{entry} is no record of this run{names}: remove it, or choose another folder (path=)")

    def has(self, chunk: int, rows: Sequence[PictureRow] | None = None) -> bool:
        """Whether a chunk is done; one that a crash has emptied or cut off is not, and that is said.

        Args:
            rows: of a stream, the chunk's rows, which must be those that were measured.

        Raises:
            InputError: the record is of another run, or of other pictures than `rows`.
        """
        path = self.path_of(chunk)
        if not path.exists():
            return False
        notes = _whole_notes(path)
        if notes is None:
            LOG.warning("%s is empty, cut off or damaged: it is computed again", path)
            return False
        if notes.get("run") != self.run:
            raise InputError(f"{path} is a record of another run: remove it, or choose another folder (path=)")
        if rows is not None:
            change = changed(notes["pictures"], list_rows(rows).values.tolist())
            if change is not None:
                raise InputError(
                    f"{self.folder} holds a run on other pictures: {change}. Choose another folder (path=), "
                    "or delete that one"
                )
        return True

    def write(
        self,
        chunk: int,
        keys: list[int],
        arrays: dict[str, np.ndarray],
        skipped: list[Skipped],
        rows: Sequence[PictureRow] | None = None,
    ) -> None:
        """One row per picture, one column per measure; arrays of more axes as lists of fixed length.

        Args:
            rows: of a stream, the rows that were measured: there is no list of all of them.

        Raises:
            InputError: the disk is full or the folder not writable; what was written before stays.
        """
        columns: dict[str, pa.Array] = {KEYS: pa.array(keys, pa.int64())}
        shapes: dict[str, list[int]] = {}
        for name, array in arrays.items():
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            shapes[name] = list(array.shape[1:])
            width = int(np.prod(shapes[name]))
            columns[name] = flat if not shapes[name] else pa.FixedSizeListArray.from_arrays(flat, width)
        notes: dict[str, Any] = {"run": self.run, "shapes": shapes}
        notes["skipped"] = [[item.path, item.reason] for item in skipped]
        if rows is not None:
            notes["pictures"] = list_rows(rows).values.tolist()
        table = pa.table(columns).replace_schema_metadata({"vitlens": json.dumps(notes)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_statistics=False, write_page_checksum=True)
        write_whole(self.path_of(chunk), sink.getvalue().to_pybytes())

    def write_table(self, name: str, content: bytes) -> None:
        path = self.folder / name
        make_folder(path.parent)
        write_whole(path, content)

    def read(self, n_chunks: int) -> "Records":
        """All chunks of the run, in order.

        Raises:
            InputError: one of them is missing, or there is one too many.
        """
        self.refuse_foreign(n_chunks)
        files = [self.path_of(chunk) for chunk in range(n_chunks)]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing: give the same command again, and it is computed")
        return Records(files)


class Records:
    """The numbers of all pictures, in the order of the data set."""

    def __init__(self, files: list[Path]) -> None:
        self.files = [file for file in files if pq.read_metadata(file).num_rows]
        self.all_files = files
        notes = [_notes(file) for file in files]
        self.shapes: dict[str, list[int]] = {}
        for note in notes:
            self.shapes |= note["shapes"]
        self.skipped = [Skipped(*item) for note in notes for item in note["skipped"]]

    def __len__(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> np.ndarray:
        """One measure of all pictures, [picture, …]. For the small ones: a few numbers a picture."""
        return np.concatenate([chunk[name] for chunk in self.chunks(name)])

    def chunks(self, *names: str) -> Iterator[dict[str, np.ndarray]]:
        """Several measures, chunk by chunk, in constant memory: for those with numbers for every token."""
        for file in self.files:
            table = pq.read_table(file, columns=list(names))
            found = {}
            for name in names:
                column = table.column(name).combine_chunks()
                flat = column.flatten() if self.shapes.get(name) else column
                values = flat.to_numpy(zero_copy_only=False)
                found[name] = values.reshape(table.num_rows, *self.shapes.get(name, []))
            yield found


def _notes(file: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(pq.read_schema(file).metadata[b"vitlens"])
    return notes


def _whole_notes(file: Path) -> dict[str, Any] | None:
    """The notes of a record whose pages are all as they were written; None for a damaged record."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as record:
            record.read()
        return _notes(file)
    except PermissionError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def _is_passing(entry: Path) -> bool:
    """Files of a process that was killed before it had written anything."""
    return entry.name.endswith(PARTIAL) or entry.name == LOCK
