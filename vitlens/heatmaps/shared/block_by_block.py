"""Gradients of a class and activations of one block after another, from the last to the first: one block in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Reader
from vitlens.model.runs.gradients import gradients_enabled, gradients_of


@dataclass(frozen=True)
class PartRun:
    """A part of the network that was run again, and the class's gradient in it.

    `seen` has the chosen activations, by their hook names without the part's own ("attn.hook_v").
    `of_pattern` is missing where no pattern was among them.
    """

    seen: dict[str, Tensor]
    of_stream: Float[Tensor, "image token d"]
    of_pattern: Tensor | None


def streams_between_blocks(
    model: HookedViT, images: Float[Tensor, "image channels height width"], first_block: int = 0
) -> list[Float[Tensor, "image token d"]]:
    """What enters block `first_block` and each later one, and what leaves the last."""
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        streams = [model(images, stop_at_layer=first_block)]
        for block in range(first_block, model.cfg.n_layers):
            streams.append(model(streams[-1], start_at_layer=block, stop_at_layer=block + 1, grid=grid))
    return streams


def through_block(
    model: HookedViT,
    stream: Float[Tensor, "image token d"],
    block: int,
    of_output: Float[Tensor, "image token d"],
    names: Sequence[str],
    grid: tuple[int, int],
) -> PartRun:
    """Runs one block again from the stream that entered it, and pulls the gradient of what left it back.

    Args:
        of_output: the gradient with respect to the stream that leaves the block.
        names: hook names to keep, without the block's own; those that this block does not have are left out.
    """
    prefix = f"blocks.{block}."
    with gradients_enabled():
        entered = stream.detach().requires_grad_()
        seen, hooks = _watch(model, prefix, names)
        with model.hooks(fwd_hooks=hooks):
            left = model(entered, start_at_layer=block, stop_at_layer=block + 1, grid=grid)
        return _pull_back(left, of_output, entered, seen, "attn.hook_pattern")


def through_head(
    model: HookedViT,
    stream: Float[Tensor, "image token d"],
    classes: Int[Tensor, "image"],
    names: Sequence[str],
    grid: tuple[int, int],
) -> PartRun:
    """The same for what follows the last block: the gradient of each picture's class, from its logit."""
    with gradients_enabled():
        entered = stream.detach().requires_grad_()
        seen, hooks = _watch(model, "pool.", names)
        with model.hooks(fwd_hooks=hooks):
            logits = model(entered, start_at_layer=model.cfg.n_layers, grid=grid)
        chosen = logits.gather(1, classes[:, None])
        return _pull_back(chosen, torch.ones_like(chosen), entered, seen, "hook_pattern")


def _watch(model: HookedViT, prefix: str, names: Sequence[str]) -> tuple[dict[str, Tensor], list]:
    seen: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: HookPoint) -> None:
        seen[str(hook.name).removeprefix(prefix)] = activation

    return seen, [(prefix + name, Reader(keep)) for name in names if prefix + name in model.hook_dict]


def _pull_back(output: Tensor, of_output: Tensor, entered: Tensor, seen: dict[str, Tensor], pattern: str) -> PartRun:
    wanted = [entered, *([seen[pattern]] if pattern in seen else [])]
    gradients = gradients_of(output, wanted, of_output)
    detached = {name: activation.detach() for name, activation in seen.items()}
    return PartRun(detached, gradients[0], gradients[1] if len(gradients) > 1 else None)
