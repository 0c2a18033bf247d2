"""Runs the model with a set of edges kept and all others resampled from the corrupted run."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.model.graph import Graph, Writings
from vitlens.model.hooks.hook_points import hook_name
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.suffix import forward_suffix
from vitlens.patching.sweep import bytes_per_row, rows_per_forward


@torch.no_grad()
def run_edges(
    graph: Graph,
    clean: Pictures,
    corrupted: Pictures,
    kept: Bool[Tensor, "run writer reader"],
    *,
    batch_size: int | None = None,
    progress: bool | None = False,
    description: str = "running circuits",
) -> Float[Tensor, "run image classes"]:
    """The logits of runs on the clean pictures in which only the kept edges carry what their writers write in this run.

    Along every other edge comes what its writer wrote on the corrupted picture. So each reader (each head's q, k and v by
    themselves, each MLP, the logits) reads the corrupted run's stream plus, for every kept edge into it, how far the
    writer's output in this run is from that in the corrupted run. All edges kept: the clean run; none: the corrupted one.

    Hooks of the user act on what is computed here: the pictures' embedding, norms, q to z, MLPs, pooling, logits. Those on
    the stream itself do not, for there is no single stream; a hook on `ln1` sees a row per run, head and picture, and this
    three times, for q, k and v.

    Args:
        batch_size: pictures of a forward, counted once for every run; by default as many as are fast.

    Raises:
        InputError: pictures that are no pairs; edges of another graph.

    Source: Conmy et al. 2023 (ACDC); Hanna et al. 2024 (a circuit's other edges are corrupted).
    """
    model = graph.model
    clean, corrupted = model.as_pair(clean, corrupted)
    if kept.shape[1:] != graph.exists.shape:
        raise InputError(
            f"edges to keep are [run, writer, reader] with {list(graph.exists.shape)} writers and readers for "
            f"{model.cfg.model_name}, not {list(kept.shape)}"
        )
    rows = edge_rows(graph, clean, batch_size)
    per_chunk = min(rows, len(clean))
    n_runs = len(kept) * len(clean)
    logits = []
    with ProgressBar(n_runs, description, "run", progress, -(-n_runs // rows)) as bar:
        for ours, theirs in zip(clean.split(per_chunk), corrupted.split(per_chunk), strict=True):
            pair = EdgePair.make(graph, ours, theirs)
            of_chunk = []
            for runs in kept.split(max(1, rows // per_chunk)):
                of_chunk.append(pair.run(runs))
                bar.update(len(runs) * len(ours))
            logits.append(torch.cat(of_chunk))
    return torch.cat(logits, dim=1)


def edge_rows(graph: Graph, pictures: Tensor, asked: int | None) -> int:
    """Rows of a forward: fewer than elsewhere, because every writer's output is kept until the run ends."""
    model = graph.model
    rows, columns = model.embed.grid(*pictures.shape[-2:])
    n_tokens = model.cfg.n_prefix_tokens + rows * columns
    usual = rows_per_forward(model, n_tokens, asked, False)
    if asked is not None:
        return usual
    # Besides, each head's own copy of the stream, before and after its norm.
    held = (len(graph.writers) + 3 * model.cfg.n_heads) * n_tokens * model.cfg.d_model * model.dtype.itemsize
    each = bytes_per_row(model, n_tokens)
    return max(1, usual * each // (each + held))


@dataclass(frozen=True)
class EdgePair:
    """What all runs on some pairs of pictures share: the corrupted run, its streams and what was written; and how far the
    clean run's input is from its own."""

    graph: Graph
    streams: dict[str, Tensor]
    corrupted: Writings
    input_change: Float[Tensor, "image tokens d"]
    grid: tuple[int, int]

    @classmethod
    def make(cls, graph: Graph, clean: Tensor, corrupted: Tensor) -> "EdgePair":
        model = graph.model
        streams = graph.streams()
        start = "blocks.0.hook_resid_pre"
        _, of_clean = model.run_with_cache(clean, names_filter=start, stop_at_layer=1)
        _, cache = model.run_with_cache(corrupted, names_filter=[*Writings.names(model), *streams])
        written = Writings(model, {name: cache[name] for name in Writings.names(model)})
        change = of_clean[start] - cache[start]
        return cls(graph, {name: cache[name] for name in streams}, written, change, model.embed.grid(*clean.shape[-2:]))

    @cached_property
    def clean_changes(self) -> Float[Tensor, "writer image tokens d"]:
        """How far what every writer writes with all edges kept is from the corrupted run: as in the clean run."""
        return self._changes(self.graph.exists[None].to(self.graph.model.device, self.graph.model.dtype), 0)[0]

    def run(self, kept: Bool[Tensor, "run writer reader"]) -> Float[Tensor, "run image classes"]:
        """The logits of one forward, whose rows are runs × pictures.

        Blocks before the first edge that is missing in any of the runs write as in the clean run, and are not run again.
        """
        graph, model = self.graph, self.graph.model
        missing = (graph.exists & ~kept).any(dim=0).any(dim=0).nonzero()[:, 0].tolist()
        first = min((graph.readers[place].block % (model.cfg.n_layers + 1) for place in missing), default=0)
        edges = kept.to(model.device, model.dtype)
        changes = self._changes(edges, first)
        logits = forward_suffix(model, self._read(edges, changes, "logits"), model.cfg.n_layers, self.grid)
        return rearrange(logits, "(run i) k -> run i k", run=len(kept))

    def _read(
        self, kept: Tensor, changes: Float[Tensor, "run writer image tokens d"], first: str, n_readers: int = 1
    ) -> Float[Tensor, "row tokens d"]:
        """What some neighbouring readers read: a row for every run, reader and picture."""
        place = self.graph.reader_index[first]
        reader = self.graph.readers[place]
        seen = self.graph.n_before(reader)
        carried = einsum(
            kept[:, :seen, place : place + n_readers], changes[:, :seen], "run w r, run w i t d -> run r i t d"
        )
        return rearrange(self.streams[self.graph.stream_of(reader)] + carried, "run r i t d -> (run r i) t d")

    def _changes(
        self, kept: Float[Tensor, "run writer reader"], first: int
    ) -> Float[Tensor, "run writer image tokens d"]:
        """How far every writer's output is from that in the corrupted run: all that edges can carry.

        Block by block from block `first` on; those before it write as in the clean run.
        """
        graph, model, n_runs, n_heads = self.graph, self.graph.model, len(kept), self.graph.model.cfg.n_heads
        n_tokens = self.input_change.shape[1]
        layout = model.embed.layout_of_stream(n_tokens, model.cfg.grid_size, self.grid)
        changes = kept.new_zeros(n_runs, len(graph.writers), *self.input_change.shape)
        changes[:, 0] = self.input_change
        known = 1 + first * (n_heads + 1)
        if first:
            changes[:, :known] = self.clean_changes[:known]

        for b in range(first, model.cfg.n_layers):
            block: Any = model.blocks[b]
            qkv = []
            for part, weight, bias in zip(
                "qkv", block.attn.project.matrices(), block.attn.project.biases(), strict=True
            ):
                normed = block.ln1(self._read(kept, changes, f"L{b}H0<{part}>", n_heads))
                by_head = rearrange(normed, "(run h i) t d -> run h i t d", run=n_runs, h=n_heads)
                projected = einsum(by_head, weight, "run h i t d, h d e -> run i t h e") + bias
                qkv.append(rearrange(projected, "run i t h e -> (run i) t h e"))
            # Between the mixing and W_O there is nothing else: Graph refuses norms and gates there.
            z = block.attn.hook_z(block.attn.attend(*qkv, layout.angles_of(b), layout.bias))
            z = rearrange(z, "(run i) ... -> run i ...", run=n_runs)
            z_change = z - self.corrupted.values[hook_name(b, "attn.z")]
            heads = graph.writer_index[f"L{b}H0"]
            changes[:, heads : heads + n_heads] = einsum(z_change, block.attn.W_O, "run i t h e, h e d -> run h i t d")

            out = block.hook_mlp_out(graph.mlp(b, self._read(kept, changes, f"L{b} mlp")))
            out = rearrange(out, "(run i) t d -> run i t d", run=n_runs)
            changes[:, graph.writer_index[f"L{b} mlp"]] = out - self.corrupted.values[hook_name(b, "mlp_out")]
        return changes
