"""The folder of a training: its settings, the state from which it can go on, and the finished dictionaries."""

import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.formats.loading import load_sae
from vitlens.features.training.cross_layer_learner import CROSS_LAYER
from vitlens.features.training.result import TrainedDictionaries, TrainingHistory
from vitlens.files import as_path, make_folder, only_process_in, write_whole
from vitlens.results.result import load_result
from vitlens.workers import Workers

SETTINGS, STATE, HISTORY = "training.json", "state.pt", "history.safetensors"
#: How often the state is written, in seconds.
SECONDS = 120.0


class Checkpoints:
    """A folder of a training, which the first process writes and all read; without a path nothing is kept."""

    def __init__(self, path: str | Path | None, facts: dict[str, Any], workers: Workers) -> None:
        self.folder = None if path is None else as_path(path)
        self.facts = json.loads(json.dumps(facts))
        self.workers = workers
        self._written = time.monotonic()

    @contextmanager
    def opened(self) -> Iterator["Checkpoints"]:
        """Makes the folder, or makes sure that it holds this training; no other run comes in.

        Raises:
            InputError: a folder of another training, or of something else; another process is at work in it.
        """
        if self.folder is None or not self.workers.is_main:
            self.workers.wait()
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
            self.workers.wait()
            yield self

    def _compare(self, path: Path) -> None:
        before = _read_json(path)
        for name, value in self.facts.items():
            there = before.get(name)
            if there == value:
                continue
            if isinstance(there, dict) and isinstance(value, dict):
                # Of the settings, the first that differs.
                name = next(key for key in value if there.get(key) != value[key])
                there, value = there.get(name), value[name]
            raise InputError(
                f"{path.parent} holds another training: its {name} is {there}, not {value}; choose another folder (path=), "
                "or delete that one"
            )

    def finished(self) -> TrainedDictionaries | None:
        """What the folder holds, where the training has ended."""
        if self.folder is None or not (self.folder / HISTORY).exists():
            return None
        names = [CROSS_LAYER] if self.facts["training"]["cross_layer"] else self.facts["hooks"]
        saes = {name: load_sae(self.folder / name) for name in names}
        return TrainedDictionaries(saes, load_result(self.folder / HISTORY, TrainingHistory))

    def read(self) -> dict[str, Any] | None:
        """The state that was written last; None at the beginning.

        Raises:
            InputError: it cannot be read.
        """
        if self.folder is None or not (self.folder / STATE).exists():
            return None
        try:
            return torch.load(self.folder / STATE, weights_only=True, map_location=self.workers.device)
        except Exception as error:
            raise InputError(
                f"{self.folder / STATE} cannot be read ({type(error).__name__}): delete it to begin the training again"
            ) from None

    @property
    def is_due(self) -> bool:
        """Whether it is time to write the state."""
        return self.folder is not None and time.monotonic() - self._written > SECONDS

    @property
    def in_words(self) -> str:
        """What is kept."""
        if self.folder is None or not (self.folder / STATE).exists():
            return "no state was kept yet"
        return f"the state that was kept last is in {self.folder}"

    def write(self, state: dict[str, Any]) -> None:
        """Keeps the state of the training."""
        if self.folder is None or not self.workers.is_main:
            return
        content = io.BytesIO()
        torch.save(state, content)
        write_whole(self.folder / STATE, content.getvalue())
        self._written = time.monotonic()

    def finish(self, trained: TrainedDictionaries) -> None:
        """Writes the dictionaries and then the history, which says that all is there."""
        if self.folder is None or not self.workers.is_main:
            return
        trained.save(self.folder)
        trained.history.save(self.folder / HISTORY)
        (self.folder / STATE).unlink(missing_ok=True)


class BetweenSteps:
    """Lets Ctrl-C in between two steps only, where the state can be kept; a second one ends a step at once."""

    def __init__(self) -> None:
        self.inside = self.waiting = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """For a while. Threads other than the main one never hear Ctrl-C, nor do processes that ignore it (under nohup)."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            yield
            return
        before = signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def wait(self) -> Iterator[None]:
        """What is not to be interrupted. `inside` stays where it was broken off."""
        self.inside = True
        yield
        self.inside = False
        if self.waiting:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.waiting or not self.inside:
            raise KeyboardInterrupt
        self.waiting = True


@checked
def read_training_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a training as arguments of `train`, from the training.json in its folder.

    Args:
        path: the file, or the folder that `train(…, path=)` has written.

    Raises:
        InputError: no such file, or one of something else.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> settings = dict(k=8, expansion=2, n_rows=2048)
        >>> trained = vitlens.features.train(model, images[:4], "resid_post3", path="run", **settings)
        >>> vitlens.features.read_training_settings("run")["k"]
        8
    """
    path = as_path(path)
    found = _read_json(path / SETTINGS if path.is_dir() else path).get("training")
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no settings of a training")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not the settings of a training: choose another folder (path=)")
    return found
