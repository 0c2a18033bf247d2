"""The steps of a forward pass: embed, run blocks, pool, classify."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import as_whole
from vitlens.errors import InputError
from vitlens.model.hooks.hook_points import expose
from vitlens.model.parts.naflex import read_validity
from vitlens.model.parts.positions import Layout

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def blocks_to_run(model: "HookedViT", start: int | None, stop: int | None) -> tuple[int, int]:
    """The first block to run and the one before which the run ends; the number of blocks stands for their end."""
    end = model.cfg.n_layers

    def place(layer: int) -> int:
        return end if as_whole(layer, "a block") == end else model.block_index(layer)

    first, last = 0 if start is None else place(start), end if stop is None else place(stop)
    if first > last:
        raise InputError(f"a run from block {first} to block {last} goes backwards: start_at_layer comes first")
    return first, last


def embed_images(model: "HookedViT", images: Any) -> Float[Tensor, "batch tokens d"]:
    patches = model.hook_patch_embed(model.embed.patches(images))
    resid = model.hook_embed(model.embed.with_prefix(patches))
    if model.embed.has_positions:
        positions = model.embed.positions(images)
        resid = resid + expose(model.hook_pos_embed, positions.expand(len(resid), -1, -1))
    return resid if model.ln_pre is None else model.hook_embed_norm(model.ln_pre(resid))


def run_blocks(
    model: "HookedViT",
    stream: Float[Tensor, "batch tokens d"],
    layout: Layout,
    blocks: Sequence[int] | None = None,
    n_read: int | None = None,
) -> Float[Tensor, "batch read d"]:
    """The residual stream after these blocks, by default all; of the model's last block, if there is `n_read`, at the first
    tokens only."""
    last = model.cfg.n_layers - 1
    for index in range(last + 1) if blocks is None else blocks:
        stream = model.blocks[index](stream, layout.angles_of(index), layout.bias, n_read if index == last else None)
    return stream


def pool(
    model: "HookedViT", resid: Float[Tensor, "batch tokens d"], layout: Layout
) -> list[Float[Tensor, "batch pooled"]]:
    """What the classifier reads, and what the second classifier of a distilled model reads."""
    if model.ln_final is not None:
        resid = model.ln_final(resid)
    valid = read_validity(layout.valid, model.pool.tokens, model.cfg.n_prefix_tokens)
    pooled = expose(model.hook_pooled, model.pool(resid, valid))
    features = [pooled if model.fc_norm is None else model.fc_norm(pooled)]
    if model.pool_dist is not None:
        features.append(expose(model.hook_pooled_dist, model.pool_dist(resid)))
    return features


def classify(model: "HookedViT", features: list[Float[Tensor, "batch pooled"]]) -> Float[Tensor, "batch out"]:
    heads = (model.unembed, model.unembed_dist)
    outputs = []
    # Older compilers do not follow zip(strict=) here.
    for i, x in enumerate(features):
        head = heads[i]
        outputs.append(x if head is None else head(x))
    return outputs[0] if len(outputs) == 1 else (outputs[0] + outputs[1]) / 2
