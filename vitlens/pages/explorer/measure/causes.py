"""What the logits become when each patch, head and MLP is removed, or is taken from another picture, one at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.choose.metrics import ClassMetric, Measures
from vitlens.heatmaps.shared.rows import rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.pages.explorer.measure.quantise import as_numpy
from vitlens.patching.gradients import gradients_at
from vitlens.patching.sources import OtherRun, Source, Zeros
from vitlens.patching.sweep import Plan, sweep

Effects = tuple[dict[str, np.ndarray], dict[str, Any]]


def effect_tensors(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    classes: Sequence[int],
    blocks: Sequence[int],
    n_runs: int,
) -> Effects:
    """effect_logits, effect_lse and effect_top of `Measured`, and how they were found.

    Patches are left out of the sequence; a head's z, or what an MLP writes, is set to zero at all tokens. Where patches,
    heads and MLPs are together more than `n_runs`, heads and MLPs are estimated; where patches alone are more, they leave
    in boxes, and each shows what its box does.
    """
    box, owner = patch_boxes(model.embed.grid(*image.shape[-2:]), n_runs)
    without = _without_patches(model, image, owner)[owner]
    tensors, how = _with_parts(model, image, classes, blocks, n_runs, Zeros(), without)
    return {f"effect_{name}": values for name, values in tensors.items()}, _how(how, box)


def swap_tensors(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    other: Float[Tensor, "1 channels height width"],
    classes: Sequence[int],
    blocks: Sequence[int],
    n_runs: int,
) -> Effects:
    """swap_logits, swap_lse, swap_top and swap_source of `Measured`, and how they were found.

    The same cells take the activation that they have on the other picture: patches the stream before the first block, a head
    its z, an MLP what it writes, at all tokens. `answer` is the other picture's first class, where the outputs
    have one.
    """
    box, owner = patch_boxes(model.embed.grid(*image.shape[-2:]), n_runs)
    first = model.cfg.n_prefix_tokens
    boxes = {str(i): (first + (owner == i).nonzero()[:, 0]).tolist() for i in range(int(owner.max()) + 1)}
    patched = _replaced(model, image, "resid_pre", [0], OtherRun(other), tokens=boxes)[owner]
    tensors, how = _with_parts(model, image, classes, blocks, n_runs, OtherRun(other), patched)
    logits = model(other)[0]
    tensors["source"] = as_numpy(logits[list(classes)])
    return {f"swap_{name}": values for name, values in tensors.items()}, _how(how, box) | {
        "answer": int(logits.argmax()) if model.predicts else None
    }


def _with_parts(
    model: HookedViT,
    image: Tensor,
    classes: Sequence[int],
    blocks: Sequence[int],
    n_runs: int,
    source: Source,
    without: Float[Tensor, "patch class"],
) -> Effects:
    """The logits of the patches' runs, and behind them those of every head and MLP, whose activation is that of `source`."""
    n_parts = len(blocks) * (model.cfg.n_heads + 1)
    exact = len(without) + n_parts <= n_runs
    if exact:
        heads, mlps = (_replaced(model, image, site, blocks, source, tokens="all") for site in ("z", "mlp_out"))
        without = torch.cat([without, heads, mlps])
    logits = without[:, list(classes)]
    lse, top = without.double().logsumexp(dim=-1), without.argmax(dim=-1)
    if not exact:
        logits = torch.cat([logits, _estimated(model, image, classes, blocks, source)])
        lse = torch.cat([lse, lse.new_full((n_parts,), math.nan)])
        top = torch.cat([top, top.new_full((n_parts,), -1)])
    kind = "exact" if exact else "estimated"
    tensors = {"logits": as_numpy(logits), "lse": as_numpy(lse), "top": top.cpu().numpy().astype(np.int32)}
    return tensors, {"heads": kind, "mlps": kind, "n_runs": n_runs}


def _how(parts: dict[str, Any], box: int) -> dict[str, Any]:
    return {"patches": "exact" if box == 1 else "boxes", "box": box} | parts


def patch_boxes(grid: tuple[int, int], most: int) -> tuple[int, Int[Tensor, "patch"]]:
    """The side of the smallest square boxes of which there are at most so many, and every patch's box."""
    sides = range(1, max(grid) + 1)
    box = next(side for side in sides if math.prod(-(-n // side) for n in grid) <= max(most, 1))
    row, column = torch.meshgrid(*[torch.arange(n) // box for n in grid], indexing="ij")
    return box, (row * -(-grid[1] // box) + column).flatten()


def _without_patches(model: HookedViT, image: Tensor, owner: Int[Tensor, "patch"]) -> Float[Tensor, "box class"]:
    """The logits without the patches of each box, one box after another."""
    keep = (owner != torch.arange(int(owner.max()) + 1)[:, None]).to(image.device)
    stream = model(image, stop_at_layer=0)
    grid = model.embed.grid(*image.shape[-2:])
    batches = keep.split(rows_at_once(model, image, None, gradients=False))
    return torch.cat([model.forward_kept(stream.expand(len(some), -1, -1), some, grid).logits for some in batches])


def _replaced(
    model: HookedViT, image: Tensor, site: str, blocks: Sequence[int], source: Source, tokens: Any
) -> Float[Tensor, "cell class"]:
    """The logits with each cell of a site taken from elsewhere, block by block."""
    plan = Plan.make(model, image, site, blocks, tokens=tokens)
    todo = torch.ones(1, len(blocks), len(plan.sites[0]), 1, dtype=torch.bool)
    steps = sweep(model, plan, image, source, todo, batch_size=None, progress=False)
    return torch.cat([step.logits[:, 0] for step in steps])


def _estimated(
    model: HookedViT, image: Tensor, classes: Sequence[int], blocks: Sequence[int], source: Source
) -> Float[Tensor, "part class"]:
    """Attribution patching: logit − Σ (activation − replacement) · ∂logit/∂activation, of all heads and then all MLPs."""
    stream, logits = model(image, stop_at_layer=0), model(image)
    z, mlp_out = ([hook_name(block, site) for block in blocks] for site in ("attn.z", "mlp_out"))
    put_in = source.activations(model, [*z, *mlp_out], image, slice(0, 1))
    found = []
    for index in classes:  # One at a time: the gradients of all at once take much memory.
        measures = Measures({"logit": ClassMetric("logit", torch.tensor([index], device=image.device))}, logits)
        kept: dict[str, Tensor] = {}
        (gradients,) = gradients_at(model, stream, image.shape[-2:], [*z, *mlp_out], measures, slice(0, 1), kept=kept)
        lost = {name: (gradient * (kept[name] - put_in[name]))[0].detach() for name, gradient in gradients.items()}
        heads = torch.cat([lost[name].sum(dim=(0, -1)) for name in z])
        found.append(logits[0, index] - torch.cat([heads, torch.stack([lost[name].sum() for name in mlp_out])]))
    return torch.stack(found, dim=-1)
