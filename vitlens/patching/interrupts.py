"""Ctrl-C in the middle of long work: noticed between two steps, so that every step is whole and no hook stays behind."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """While entered, a first Ctrl-C (Jupyter's stop) only sets `asked`; a second one interrupts at once.

    Threads other than the main one are never interrupted, nor are processes that ignore the signal (as started by nohup):
    they see `asked` as False.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> "Interrupts":
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
