"""Activations on disk: what one pass over the pictures has computed, later passes and other trainings read."""

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from vitlens.errors import InputError
from vitlens.features.activations import Rows
from vitlens.files import as_path, make_folder, write_whole
from vitlens.workers import Workers

FACTS = "activations.json"


class Shards:
    """A folder with a safetensors file for each fill of each process, which holds the rows of all hook points.

    Args:
        facts: what the activations depend on; a folder that was written with other ones is refused.
        hooks: the hook points that are read. The folder may hold more.
        n_fills: how many there are of one pass.

    Raises:
        InputError: a folder of other activations, or of something else.
    """

    def __init__(
        self, path: str | Path, facts: dict[str, Any], hooks: list[str], n_fills: int, workers: Workers
    ) -> None:
        self.folder, self.hooks, self.n_fills, self.workers = as_path(path), hooks, n_fills, workers
        facts = json.loads(json.dumps(facts | {"n_processes": workers.world_size}))
        if workers.is_main:
            self._open(facts)
        workers.wait()

    def _open(self, facts: dict[str, Any]) -> None:
        known = make_folder(self.folder) / FACTS
        if known.exists():
            self._compare(facts, known)
        elif any(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no activations: choose another folder (shards=)")
        else:
            write_whole(known, (json.dumps(facts | {"hooks": self.hooks}, indent=1) + "\n").encode())

    def _compare(self, facts: dict[str, Any], known: Path) -> None:
        try:
            before = json.loads(known.read_text())
            there = before["hooks"]
        except (OSError, ValueError, TypeError, KeyError):
            raise InputError(f"{known} cannot be read: choose another folder (shards=)") from None
        for name, value in facts.items():
            if before.get(name) != value:
                raise InputError(
                    f"{self.folder} holds other activations: their {name} is {before.get(name)}, not {value}; choose "
                    "another folder (shards=), or delete that one"
                )
        if missing := [hook for hook in self.hooks if hook not in there]:
            raise InputError(
                f"{self.folder} holds activations of {', '.join(there)}, not of {', '.join(missing)}: choose another "
                "folder (shards=)"
            )

    def read(self, number: int) -> Rows | None:
        """The rows of a fill, or None before they are written.

        Raises:
            InputError: the file cannot be read.
        """
        path = self._file(number)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt", device=str(self.workers.device)) as file:
                return {hook: file.get_tensor(hook) for hook in self.hooks}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} cannot be read ({error}): delete it, and it is computed again") from None

    def write(self, number: int, rows: Rows) -> None:
        """Keeps the rows of a fill.

        Raises:
            InputError: the disk has not enough room for those that are missing.
        """
        content = safetensors.torch.save({hook: values.contiguous() for hook, values in rows.items()})
        missing = self.n_fills * self.workers.world_size - len(list(self.folder.glob("*.safetensors")))
        needed, free = missing * len(content), shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"shards= needs about {needed / 1e9:.1f} GB more in {self.folder}, where {free / 1e9:.1f} GB are free: "
                "choose another disk, or leave it out"
            )
        write_whole(self._file(number), content)

    def _file(self, number: int) -> Path:
        return self.folder / f"rows_{number:05d}_{self.workers.rank}.safetensors"
