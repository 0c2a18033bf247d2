"""The computational graph of a model: what writes to the residual stream, what reads it, and every direct path between.

Writers are "input" (the stream that enters block 0), "L3H1" (block 3, head 1) and "L3 mlp"; readers are "L3H1<q>",
"L3H1<k>", "L3H1<v>" (a head's three inputs), "L3 mlp" and "logits"; an edge is "L0H2->L3H1<v>".
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

from vitlens.arguments import index_of, is_whole, short
from vitlens.errors import InputError, nearest
from vitlens.model.capabilities import paths_refused
from vitlens.model.hooked_vit import HookedViT
from vitlens.results.axes import ComponentLabel

#: How parts are written.
_NODE = re.compile(r"(?P<kind>input|logits)|L(?P<block>\d+)(?: mlp|H(?P<head>\d+)(?:<(?P<part>[qkv])>)?)")
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
            return f"L{self.block}H{self.head}" + (f"<{self.part}>" if self.part else "")
        return f"L{self.block} mlp" if self.kind == "mlp" else self.kind

    @property
    def label(self) -> ComponentLabel:
        """Its name as a label of axes."""
        block, head = (None if number < 0 else number for number in (self.block, self.head))
        return ComponentLabel(str(self), self.kind, block, head)

    @classmethod
    def of(cls, name: str) -> "Node":
        """The node of this name.

        Raises:
            InputError: it is no name of a node.
        """
        found = _NODE.fullmatch(name)
        if found is None:
            raise InputError(
                f"{name!r} is no name of a part: they look like 'input', 'L3H1', 'L3H1<v>', 'L3 mlp', 'logits'"
            )
        if found["kind"]:
            return cls(found["kind"])
        block = int(found["block"])
        return (
            cls("mlp", block) if found["head"] is None else cls("head", block, int(found["head"]), found["part"] or "")
        )


class Graph:
    """The graph of one architecture: what writes to the residual stream, what reads it, and the edges between.

    Raises:
        InputError: heads do not write to the stream by themselves (a norm or gate follows them).
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
        return {node.label: i for i, node in enumerate(self.writers)}

    @cached_property
    def reader_index(self) -> dict[str, int]:
        return {node.label: i for i, node in enumerate(self.readers)}

    def n_before(self, reader: Node) -> int:
        """The number of writers before a reader, in the order of the network."""
        per_block = self.model.cfg.n_heads + 1
        if reader.kind == "logits":
            return len(self.writers)
        with_own_heads = reader.kind == "mlp" and not self.parallel
        return 1 + reader.block * per_block + (self.model.cfg.n_heads if with_own_heads else 0)

    @cached_property
    def exists(self) -> Bool[Tensor, "writer reader"]:
        """Which pairs of writer and reader are edges."""
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
        """The writers of these names or patterns ("L3H*", "L* mlp"), in the order of the network; None: all. A head may also
        be (block, head)."""
        return self._find(names, self.writers, "sender")

    def find_readers(self, names: NodeNames) -> list[Node]:
        """The readers of these names or patterns ("L3H1<v>", "*<q>", "L3H1" for its three inputs); None: all."""
        return self._find(names, self.readers, "receiver")

    def _find(self, names: NodeNames, nodes: list[Node], role: str) -> list[Node]:
        if names is None:
            return nodes
        wanted: list[Any] = list(names) if isinstance(names, (list, tuple)) and not _is_head(names) else [names]
        if not wanted:
            raise InputError(f"the list of {role}s is empty")
        found: set[int] = set()
        for item in wanted:
            name = self._written(item, role)
            # A head without a part means all of its inputs.
            patterns = [name, f"{name}<?>"]
            matches = {
                i for i, node in enumerate(nodes) if any(fnmatchcase(str(node), pattern) for pattern in patterns)
            }
            if not matches:
                near = nearest(name, [str(node) for node in nodes])
                raise InputError(f"no {role} is called {name!r}; the nearest names are {near}")
            found |= matches
        return [nodes[i] for i in sorted(found)]

    def _written(self, item: Any, role: str) -> str:
        """A node's name; a head may also be given as (block, head)."""
        if isinstance(item, str):
            return item
        if not _is_head(item):
            raise InputError(f"a {role} is a name such as 'L3H1', or (block, head), not {short(item)}")
        block, head = self.model.block_index(item[0]), index_of(item[1], self.model.cfg.n_heads, "head")
        return str(Node("head", block, head))


def _is_head(name: object) -> bool:
    return isinstance(name, tuple) and len(name) == 2 and all(is_whole(part) for part in name)


def read_head(name: Any) -> tuple[int, int] | None:
    """Block and head of "L2H1" or (2, 1); None for anything else."""
    if _is_head(name):
        return int(name[0]), int(name[1])
    found = re.fullmatch(r"L(\d+)H(\d+)", name) if isinstance(name, str) else None
    return None if found is None else (int(found[1]), int(found[2]))


def _require_separate_heads(model: HookedViT) -> None:
    why = paths_refused(model)
    if why is not None:
        raise InputError(f"paths need parts that write to the stream by themselves: in {model.cfg.model_name} {why}")


@dataclass(frozen=True)
class Writings:
    """What every writer adds to the stream in a run, in a compact form: W_O is applied to heads only when they are read."""

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
