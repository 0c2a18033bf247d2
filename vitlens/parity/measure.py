"""Measures the difference of a port from its module: logits, every block, and the gradient of the pictures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import hook_name
from vitlens.parity.peers.peer import TIMM, Peer

# How the port is run: unwatched, with attention and norms in one kernel each; or step by step, as when watched.
MODES: dict[str, list[str]] = {"fused": ["resid_post"], "eager": ["resid_post", "pattern", "hook_normalized"]}


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """max |ours − theirs| / max |theirs|, in double precision."""
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300)).item()


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """The relative difference at every site that both have."""
    return {site: relative_difference(ours[site], theirs[site]) for site in theirs if site in ours}


def measure_port(
    module: nn.Module, model: HookedViT, images: Any, gradient: bool = True, peer: Peer = TIMM
) -> dict[str, dict[str, float]]:
    """The relative differences between a module and its port, by mode and then by site.

    Args:
        module: in evaluation mode; the one that `model` was made from.
        images: what both read; a dictionary of patches for NaFlex.
        gradient: also compare d(Σ w logits²)/d(images), with weights w from 1 to 2.
        peer: how the module is run, if it is not timm's.

    Returns:
        For each of the modes "fused" and "eager": "block 0" …, "logits", "gradient".
    """
    theirs = peer_sites(module, images, gradient, peer)
    return {mode: differences(port_sites(model, images, mode, gradient), theirs) for mode in MODES}


def peer_sites(module: nn.Module, images: Any, gradient: bool = True, peer: Peer = TIMM) -> dict[str, Tensor]:
    """What the other library's own blocks return, its logits and the gradient."""
    with _stream_after_blocks(module, peer) as streams:
        outcome = _run(lambda images: peer.answer(module, images), images, gradient)
    return {f"block {block}": stream for block, stream in enumerate(streams)} | outcome


def port_sites(model: HookedViT, images: Any, mode: str, gradient: bool = True) -> dict[str, Tensor]:
    """The same of a port, in one of the MODES."""
    known = [name for name in MODES[mode] if any(full.endswith(name) for full in model.hook_dict)]
    cache, hooks, _ = model.get_caching_hooks(known)
    with model.hooks(hooks):
        outcome = _run(model, images, gradient)
    streams = (cache[hook_name(block, "resid_post")] for block in range(model.cfg.n_layers))
    return {f"block {block}": stream for block, stream in enumerate(streams)} | outcome


def _run(model: Callable[[Any], Tensor], images: Any, gradient: bool) -> dict[str, Tensor]:
    if not gradient:
        with torch.no_grad():
            return {"logits": model(images)}
    if isinstance(images, dict):
        leaf = images["patches"].clone().requires_grad_()
        logits = model({**images, "patches": leaf})
    else:
        leaf = images.clone().requires_grad_()
        logits = model(leaf)
    # Alike weights would have no gradient where the answer is a norm's output: its squares sum to a constant.
    weights = torch.linspace(1, 2, logits.shape[-1], dtype=logits.dtype, device=logits.device)
    total = (weights * logits.square()).sum()
    return {"logits": logits.detach(), "gradient": torch.autograd.grad(total, leaf)[0]}


@contextmanager
def _stream_after_blocks(module: Any, peer: Peer) -> Iterator[list[Tensor]]:
    """What the blocks return, one after the other; some libraries return a tuple whose first entry is the stream."""
    streams: list[Tensor] = []

    def keep_output(block: nn.Module, inputs: Any, output: Any) -> None:
        streams.append((output[0] if isinstance(output, tuple) else output).detach())

    def keep_input(reader: nn.Module, inputs: Any) -> None:
        streams.append(inputs[0].detach())

    if peer.readers is not None:
        handles = [reader.register_forward_pre_hook(keep_input) for reader in peer.readers(module)]
    else:
        blocks: Any = module.get_submodule(peer.blocks)
        handles = [block.register_forward_hook(keep_output) for block in blocks]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
