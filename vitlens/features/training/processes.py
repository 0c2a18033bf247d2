"""The processes that share a training under torchrun: which one this is, and means and maxima over all of them."""

import os

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """All processes of this training; one, unless torchrun started several."""

    def __init__(self, device: torch.device) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.n = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, in each of them."""
        if self.n == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.n

    def any(self, value: Tensor) -> Tensor:
        """Where any process has True."""
        if self.n == 1:
            return value
        found = value.to(torch.uint8)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return found.bool()

    def spread(self, value: Tensor) -> None:
        """Gives all processes the first one's value, in place."""
        if self.n > 1:
            dist.broadcast(value, 0)
