"""The folder of a training: its settings, the state from which it can go on, and the finished dictionaries."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vitlens.errors import InputError
from vitlens.features.training.result import TrainedDictionaries
from vitlens.files import as_path, make_folder, only_process_in, write_whole
from vitlens.workers import Workers

SETTINGS, STATE, HISTORY = "training.json", "state.pt", "history.safetensors"
#: How often the state is written, in seconds.
SECONDS = 120.0


class Checkpoints:
    """A folder of a training; without a path nothing is kept."""

    def __init__(self, path: str | Path | None, facts: dict[str, Any], workers: Workers) -> None:
        self.folder = None if path is None else as_path(path)
        self.facts = json.loads(json.dumps(facts))
        self.workers = workers
        self._written = time.monotonic()

    @contextmanager
    def opened(self) -> Iterator["Checkpoints"]:
        """Makes the folder, or makes sure that it holds this training; no other process comes in.

        Raises:
            InputError: a folder of another training, or of something else; another process is at work in it.
        """
        if self.folder is None or not self.workers.is_main:
            yield self
            return
        folder = make_folder(self.folder)
        settings = folder / SETTINGS
        if settings.exists():
            self._compare(settings)
        elif any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and holds no training: choose another folder (path=)")
        with only_process_in(folder):
            write_whole(settings, (json.dumps(self.facts, indent=1) + "\n").encode())
            yield self

    def _compare(self, path: Path) -> None:
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise InputError(f"{path} is not the settings of a training: choose another folder (path=)")
        for name, value in self.facts.items():
            if before.get(name) != value:
                raise InputError(
                    f"{path.parent} holds another training: its {name} is {before.get(name)}, not {value}; choose another "
                    "folder (path=), or delete that one"
                )

    def read(self) -> dict[str, Any] | None:
        """The state that was written last; None at the beginning."""
        if self.folder is None or not (self.folder / STATE).exists():
            return None
        return torch.load(self.folder / STATE, weights_only=True)

    def is_due(self) -> bool:
        """Whether it is time to write the state."""
        return self.folder is not None and time.monotonic() - self._written > SECONDS

    def write(self, state: dict[str, Any]) -> None:
        """Keeps the state of the training."""
        if self.folder is None or not self.workers.is_main:
            return
        content = io.BytesIO()
        torch.save(state, content)
        write_whole(self.folder / STATE, content.getvalue())
        self._written = time.monotonic()

    def finish(self, trained: TrainedDictionaries) -> None:
        """Writes the dictionaries and the history."""
        if self.folder is None or not self.workers.is_main:
            return
        trained.save(self.folder)
        trained.history.save(self.folder / HISTORY)
        (self.folder / STATE).unlink(missing_ok=True)
