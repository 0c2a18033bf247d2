"""What a run keeps: one Parquet file per chunk of pictures, written whole or not at all, and read column by column."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitlens.data.decoding import Skipped
from vitlens.errors import InputError
from vitlens.report.page import write_whole
from vitlens.study.settings import difference

KEYS = "key"


class Store:
    """A folder: settings.json, records/ (numbers of every picture), tables/, figures/, report.html."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"

    def prepare(self, description: dict[str, Any]) -> None:
        """Makes the folder, or makes sure that what it holds was computed in the same way.

        Raises:
            InputError: a folder of other settings (the difference is named), of something else, or not writable.
        """
        path = self.folder / "settings.json"
        if path.exists():
            try:
                before = json.loads(path.read_text())
                changed = difference(before, description)
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path} is not the settings of a run: choose another folder") from None
            if changed is not None:
                raise InputError(
                    f"{self.folder} holds a run with other settings: {changed}. Choose another --out, or delete that folder"
                )
        elif self.folder.is_dir() and any(not entry.name.endswith(".partial") for entry in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no run of ours: choose another --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The settings come first: a folder with anything else in it but no settings is not ours.
            if not path.exists():
                write_whole(path, (json.dumps(description, indent=2) + "\n").encode())
            self.records.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {self.folder} cannot be made: {error.strerror}") from None

    def path_of(self, chunk: int) -> Path:
        return self.records / f"{chunk:06d}.parquet"

    def has(self, chunk: int) -> bool:
        return self.path_of(chunk).exists()

    def write(self, chunk: int, keys: list[int], arrays: dict[str, np.ndarray], skipped: list[Skipped]) -> None:
        """One row per picture, one column per measure; arrays of more axes as lists of fixed length.

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
        notes = {"shapes": shapes, "skipped": [[item.path, item.reason] for item in skipped]}
        table = pa.table(columns).replace_schema_metadata({"vitlens": json.dumps(notes)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_statistics=False)
        write_whole(self.path_of(chunk), sink.getvalue().to_pybytes())

    def write_table(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def read(self, n_chunks: int | None = None) -> "Records":
        """All chunks that are there, in order."""
        return Records(sorted(self.records.glob("*.parquet"))[:n_chunks])


class Records:
    """The numbers of all pictures, in the order of the data set."""

    def __init__(self, files: list[Path]) -> None:
        self.files = [file for file in files if pq.read_metadata(file).num_rows]
        self.all_files = files
        notes = [self._notes(file) for file in files]
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

    @staticmethod
    def _notes(file: Path) -> dict[str, Any]:
        return json.loads(pq.read_schema(file).metadata[b"vitlens"])
