"""Shares the work among the processes that torchrun starts, and handles the loss of one."""

import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor


def make_sums_reproducible() -> None:
    """Asks MKL, on processors of Intel, for products that do not depend on the number of threads. MKL reads this once,
    before its first product; it costs no time.

    It holds for products of MKL alone: on other processors (where the setting makes more products differ), and in torch's
    own sums, the last digits depend on the number of threads. So the same bytes are promised for the same number only.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability in ("AVX2", "AVX512") and _is_intel():
        os.environ.setdefault("MKL_CBWR", f"{capability},STRICT")


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return "Intel" in platform.processor()


class Stopped(RuntimeError):
    """The run was stopped before its end; the message says what is kept and how to go on."""


class WorkerLost(RuntimeError):
    """Another process ended before its work was done."""


class Workers:
    """This process among those of the run; one process alone where torchrun did not start it."""

    def __init__(self, device: str) -> None:
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = device
        self._has_begun = False
        if dist.is_initialized():
            self.world_size, self.rank = dist.get_world_size(), dist.get_rank()
        if self.world_size == 1:
            return
        if device == "cuda":
            self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            # A process that has finished its share waits for the others, however long they take.
            backend = "nccl" if self.device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, timeout=timedelta(days=14))
            self._has_begun = True
        if threading.current_thread() is threading.main_thread():
            # torchrun ends the others with SIGTERM when one is lost.
            signal.signal(signal.SIGTERM, self._lost)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here.

        Raises:
            WorkerLost: one of them ended, here as in all methods below.
        """
        if self.world_size > 1:
            with _together():
                dist.barrier()

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes bring."""
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MAX))

    def smallest(self, number: int) -> int:
        """The smallest of the numbers that the processes bring."""
        return int(self._reduced(torch.tensor(number), dist.ReduceOp.MIN))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the processes' tensors, in each of them."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the processes' tensors, in each of them."""
        return values if self.world_size == 1 else self.sum(values) / self.world_size

    def spread(self, values: Tensor) -> None:
        """Gives all processes the first one's tensor, in place."""
        if self.world_size > 1:
            with _together():
                dist.broadcast(values, 0)

    def close(self) -> None:
        """Ends what this one has begun."""
        if self._has_begun and dist.is_initialized():
            dist.destroy_process_group()

    def _reduced(self, values: Tensor, how: "dist.ReduceOp.RedOpType") -> Tensor:
        if self.world_size == 1:
            return values
        shared = values.detach().to(self.device, copy=True)
        with _together():
            dist.all_reduce(shared, how)
        return shared

    @staticmethod
    def _lost(number: int, frame: FrameType | None) -> None:
        raise WorkerLost("told to end because another process was lost, or by the user")


@contextmanager
def _together() -> Iterator[None]:
    """What all processes do together, which fails where one of them has ended."""
    try:
        yield
    except RuntimeError as error:
        raise WorkerLost(str(error).splitlines()[0]) from None
