"""Measures what changes of units do to the logits: in the model itself, and with patterns, norms and gates held."""

from collections.abc import Callable, Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.circuits.graphs.graph_run import GraphRun
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.runs.gradients import gradients_enabled, gradients_of
from vitlens.results.axes import NodeLabel

#: What a graph holds as it was, by the end of hook points' names.
HELD = ("attn.hook_pattern", "hook_scale", "attn.hook_gate")


class MeasuredChanges:
    """Runs of a graph's picture in which what one unit writes at its token is changed, in all blocks that it writes in."""

    def __init__(self, of: GraphRun, factor: float, batch_size: int) -> None:
        self.of, self.model = of, of.run.model
        self.factor, self.batch_size = factor, batch_size
        self.grid = self.model.embed.grid(*of.picture.shape[-2:])
        last = self.model.cfg.n_layers - 1
        sites = ("resid_pre", "attn_out", "mlp_out")
        self.final = torch.stack([of.run.seen[hook_name(last, site)] for site in sites]).sum(dim=0)

    def measure(
        self, units: Sequence[NodeLabel], told: Callable[[int], None]
    ) -> tuple[Float[Tensor, "unit logit"], Float[Tensor, "unit logit"]]:
        """The changes of the logits in the model, and where patterns, norms' scales and gates are those of the clean run."""
        order = sorted(range(len(units)), key=lambda i: units[i].block or 0)
        real = self.of.run.logits.new_zeros(len(units), len(self.of.logits.final))
        held = torch.zeros_like(real)
        for rows in _batches(order, units, self.batch_size):
            mine = [units[i] for i in rows]
            real[rows], held[rows] = self._both(mine)
            told(len(rows))
        return real, held

    def _both(self, units: list[NodeLabel]) -> tuple[Tensor, Tensor]:
        run, first = self.of.run, units[0].block
        assert first is not None
        stream = run.seen[hook_name(first, "resid_pre")].expand(len(units), -1, -1)
        edits: Hooks = [
            (hook_name(block, "mlp_out"), _adds((self.factor - 1) * rows))
            for block, rows in self.of.written(units).items()
        ]
        about = {"start_at_layer": first, "grid": self.grid}
        logits = self.model.run_with_hooks(stream, fwd_hooks=edits, **about)
        holds: Hooks = [(name, _puts(value)) for name, value in run.seen.items() if name.endswith(HELD)]
        final = self.model.run_with_hooks(
            stream, fwd_hooks=[*holds, *edits], stop_at_layer=self.model.cfg.n_layers, **about
        )
        of_stream = einsum(self.of.logits.final, final - self.final, "l t d, i t d -> i l")
        return self.of.compared(logits - run.logits), of_stream

    def by_gradient(self, units: Sequence[NodeLabel]) -> Float[Tensor, "unit logit"]:
        """What the gradients of the whole model, which follow patterns and norms, make of the same changes."""
        names = [hook_name(block, "mlp_out") for block in range(self.model.cfg.n_layers)]
        n = len(self.of.logits.final)
        with gradients_enabled():
            # A row for each logit: one pass back for all of them.
            added = [self.of.run.seen[name].new_zeros(n, *self.final.shape).requires_grad_() for name in names]
            edits: Hooks = [(name, _adds(zeros)) for name, zeros in zip(names, added, strict=True)]
            logits = self.model.run_with_hooks(self.of.picture.expand(n, -1, -1, -1), fwd_hooks=edits)
            slopes = gradients_of(self.of.compared(logits).diagonal().sum(), added)
        found = []
        for first in range(0, len(units), self.batch_size):
            written = self.of.written(units[first : first + self.batch_size])
            parts = [einsum(rows, slopes[block], "i t d, l t d -> i l") for block, rows in written.items()]
            found.append((self.factor - 1) * torch.stack(parts).sum(dim=0))
        return torch.cat(found)


def _batches(order: list[int], units: Sequence[NodeLabel], size: int) -> list[list[int]]:
    """The units of each block, some at a time."""
    found: list[list[int]] = []
    for i in order:
        if not found or len(found[-1]) == size or units[found[-1][0]].block != units[i].block:
            found.append([])
        found[-1].append(i)
    return found


def _adds(rows: Tensor) -> Callable[[Tensor, HookPoint], Tensor]:
    return lambda activation, hook: activation + rows


def _puts(value: Tensor) -> Callable[[Tensor, HookPoint], Tensor]:
    return lambda activation, hook: value.expand_as(activation)
