"""The computational graph of a model: what writes to the residual stream, what reads it, and every direct path between.

Names are those of edge attribution patching: writers are "input" (the stream that enters block 0), "a3.h1" (block 3,
head 1) and "m3" (its MLP); readers are "a3.h1<q>", "a3.h1<k>", "a3.h1<v>" (a head's three inputs), "m3" and "logits"; an
edge is "a0.h2->a3.h1<v>".
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.arguments import is_whole, short
from vitlens.errors import InputError, nearest
from vitlens.model.capabilities import paths_refused
from vitlens.model.hooked_vit import HookedViT

NodeName = str | tuple[int, int]
NodeNames = NodeName | Sequence[NodeName] | None


@dataclass(frozen=True)
class Node:
    """A writer or a reader. `part` is "q", "k" or "v" of a reading head."""

    kind: str
    block: int = -1
    head: int = -1
    part: str = ""

    @property
    def owner(self) -> "Node":
        """The part that a reader is an input of: the head, whichever of its inputs."""
        return Node(self.kind, self.block, self.head)

    def __str__(self) -> str:
        if self.kind == "head":
            return f"a{self.block}.h{self.head}" + (f"<{self.part}>" if self.part else "")
        return f"m{self.block}" if self.kind == "mlp" else self.kind


class Graph:
    """Writers, readers, and which reads which, of one architecture.

    Raises:
        InputError: heads do not write to the stream by themselves (a norm or gate stands behind them).
    """

    def __init__(self, model: HookedViT) -> None:
        _require_separate_heads(model)
        self.model = model
        blocks, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
        self.parallel = model.cfg.wiring == "parallel"
        self.writers = [Node("input")]
        self.readers: list[Node] = []
        for block in blocks:
            self.writers += [*[Node("head", block, head) for head in heads], Node("mlp", block)]
            self.readers += [Node("head", block, head, part) for part in "qkv" for head in heads]
            self.readers.append(Node("mlp", block))
        self.readers.append(Node("logits"))

    @cached_property
    def writer_index(self) -> dict[str, int]:
        return {str(node): i for i, node in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        return {str(node): i for i, node in enumerate(self.readers)}

    def n_before(self, reader: Node) -> int:
        """How many of the writers (which are in order) a reader sees."""
        per_block = self.model.cfg.n_heads + 1
        if reader.kind == "logits":
            return len(self.writers)
        with_own_heads = reader.kind == "mlp" and not self.parallel
        return 1 + reader.block * per_block + (self.model.cfg.n_heads if with_own_heads else 0)

    @cached_property
    def exists(self) -> Bool[Tensor, "writer reader"]:
        """Which edges there are."""
        places = torch.arange(len(self.writers))[:, None]
        return places < torch.tensor([self.n_before(reader) for reader in self.readers])

    def stream_of(self, reader: Node) -> str:
        """The hook point of the stream that a reader reads."""
        if reader.kind == "logits":
            return f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post"
        middle = reader.kind == "mlp" and not self.parallel
        return f"blocks.{reader.block}.hook_resid_{'mid' if middle else 'pre'}"

    def streams(self) -> list[str]:
        """The hook points of all streams that are read, in the order of the network."""
        return list(dict.fromkeys(self.stream_of(reader) for reader in self.readers))

    def mlp(self, block: int, stream: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """What a block's MLP writes for the stream that it reads, its norm included."""
        layer: Any = self.model.blocks[block]
        return layer.mlp((layer.ln1 if self.parallel else layer.ln2)(stream))

    def edges(self) -> list[str]:
        """The name of every edge."""
        return [f"{self.writers[w]}->{self.readers[r]}" for w, r in self.exists.nonzero().tolist()]

    def find_writers(self, names: NodeNames) -> list[Node]:
        """The writers of these names or patterns ("a3.*", "m*"), in the order of the network; None: all. A head may also be
        (block, head)."""
        return self._find(names, self.writers, "sender")

    def find_readers(self, names: NodeNames) -> list[Node]:
        """The readers of these names or patterns ("a3.h1<v>", "*<q>", "a3.h1" for its three inputs); None: all."""
        return self._find(names, self.readers, "receiver")

    def _find(self, names: NodeNames, nodes: list[Node], role: str) -> list[Node]:
        if names is None:
            return nodes
        wanted: list[Any] = list(names) if isinstance(names, (list, tuple)) and not _is_head(names) else [names]
        if not wanted:
            raise InputError(f"the list of {role}s is empty")
        found: set[int] = set()
        for item in wanted:
            name = _written(item, role)
            # A block without a head means all of its heads, a head without a part all of its inputs.
            patterns = [name]
            patterns += [f"{name}<?>"] if re.fullmatch(r"a[^<]*", name) else []
            patterns += [f"{name}.*"] if re.fullmatch(r"a\d+", name) else []
            matches = {
                i for i, node in enumerate(nodes) if any(fnmatchcase(str(node), pattern) for pattern in patterns)
            }
            if not matches:
                near = nearest(name, [str(node) for node in nodes])
                raise InputError(f"no {role} is called {name!r}; the nearest names are {near}")
            found |= matches
        return [nodes[i] for i in sorted(found)]


def _is_head(name: object) -> bool:
    return isinstance(name, tuple) and len(name) == 2 and all(is_whole(part) for part in name)


def _written(item: Any, role: str) -> str:
    """A node's name as it stands here, out of (block, head) and "L2H1" too."""
    if _is_head(item):
        return f"a{item[0]}.h{item[1]}"
    if not isinstance(item, str):
        raise InputError(f"a {role} is a name such as 'a3.h1', or (block, head), not {short(item)}")
    head = read_head(item)
    return item if head is None else f"a{head[0]}.h{head[1]}" + item[item.index("<") if "<" in item else len(item) :]


def read_head(name: str) -> tuple[int, int] | None:
    """Block and head of "a2.h1", or of "L2H1" as attributions write it; None for another name."""
    found = re.fullmatch(r"(?:a(\d+)\.h|L(\d+)H)(\d+)(?:<[qkv]>)?", name)
    return None if found is None else (int(found[1] or found[2]), int(found[3]))


def _require_separate_heads(model: HookedViT) -> None:
    why = paths_refused(model)
    if why is not None:
        raise InputError(f"paths need parts that write to the stream by themselves: in {model.cfg.model_name} {why}")


@dataclass(frozen=True)
class Writings:
    """What every writer adds to the stream in a run, in a compact form: heads are multiplied by W_O when asked."""

    model: HookedViT
    values: dict[str, Tensor]

    @staticmethod
    def names(model: HookedViT) -> list[str]:
        blocks = range(model.cfg.n_layers)
        per_block = [name for b in blocks for name in (f"blocks.{b}.attn.hook_z", f"blocks.{b}.hook_mlp_out")]
        return ["blocks.0.hook_resid_pre", *per_block]

    def minus(self, other: "Writings") -> "Writings":
        return Writings(self.model, {name: value - other.values[name] for name, value in self.values.items()})

    def of(self, node: Node) -> Float[Tensor, "image tokens d"]:
        if node.kind == "input":
            return self.values["blocks.0.hook_resid_pre"]
        if node.kind == "mlp":
            return self.values[f"blocks.{node.block}.hook_mlp_out"]
        W_O = self.model.blocks[node.block].attn.W_O[node.head]
        return self.values[f"blocks.{node.block}.attn.hook_z"][:, :, node.head] @ W_O

    def of_heads(self, block: int) -> Float[Tensor, "head image tokens d"]:
        """All heads of a block."""
        z = self.values[f"blocks.{block}.attn.hook_z"]
        return einsum(z, self.model.blocks[block].attn.W_O, "i t h e, h e d -> h i t d")
