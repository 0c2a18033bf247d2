"""How a model of another library is run for a comparison, and the small models that are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Peer:
    """Where a class of another library keeps its blocks, and what of its answer a port must equal.

    Args:
        blocks: the path of the list of its blocks.
        answer: the logits, or the embedding, of pictures.
        readers: what reads the stream after each block, where blocks are lists that are not called as modules.
    """

    blocks: str
    answer: Callable[[Any, Any], Tensor]
    readers: Callable[[Any], list[nn.Module]] | None = None


TIMM = Peer("blocks", lambda module, images: module(images))


@dataclass(frozen=True)
class Case:
    """A small model of another library, with random weights.

    Args:
        family: as `vitlens.model.families` calls it.
        name: what is special about it.
        build: makes the module.
        peer: how it is run.
        image_size: of the pictures that both read.
        options: of `HookedViT.from_pretrained`.
    """

    family: str
    name: str
    build: Callable[[], nn.Module]
    peer: Peer
    image_size: tuple[int, int] = (32, 32)
    options: Mapping[str, Any] = field(default_factory=dict)


class KeepsFloat64(TorchFunctionMode):
    """Leaves numbers of float64 where a library asks for float32, as it does for numbers of half precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.to, Tensor.float) and args[0].dtype == torch.float64:
            wanted = [*args[1:], *(kwargs or {}).values()] if func is Tensor.to else [torch.float32]
            if torch.float32 in [value for value in wanted if isinstance(value, torch.dtype)]:
                return args[0]
        if func in (torch.matmul, Tensor.matmul, Tensor.__matmul__):
            args = [part.double() for part in args]
        return func(*args, **(kwargs or {}))
