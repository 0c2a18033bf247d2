"""The logits as targets of a graph: what they read of the last stream."""

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.circuits.graphs.frozen_run import FrozenRun, Reads


def logits_as_targets(
    run: FrozenRun, classes: Int[Tensor, "image class"], baselines: Int[Tensor, "image base"] | None
) -> tuple[Reads, Float[Tensor, "logit"], Float[Tensor, "logit"]]:
    """What the logits of these classes (or their differences) read, the logits, and the readout's constants."""
    chosen = [readout.choose(classes, baselines) for readout in run.readouts]
    totals = run.logits[classes[0]]
    if baselines is not None:
        totals = totals - run.logits[baselines[0]]
    final = totals.new_zeros(len(totals), *run.mlp_out(0).shape)
    constants = torch.zeros_like(totals)
    for readout in chosen:
        final[:, readout.tokens] += einsum(readout.weights[0], readout.directions[0], "g t, g c d -> c t d")
        constants += readout.constant[0] + sum(term[0] for term in readout.terms.values())
    n = len(totals)
    none = final.new_zeros(n, final.shape[-1])
    blocks = torch.full((n,), len(run.blocks), device=final.device)
    return Reads(blocks, torch.zeros_like(blocks), none, final), totals, constants
