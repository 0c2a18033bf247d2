"""The rest of a forward pass, from the residual stream that enters a block; many runs at once."""

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.model.runs.forward import classify, pool, run_blocks

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


def n_read(model: "HookedViT") -> int | None:
    """How many of the first tokens hold all that the classifier reads; None where it reads patches."""
    last = model.pool.tokens.stop if model.pool_dist is None else model.pool_dist.tokens.stop
    return last if last is not None and last <= model.cfg.n_prefix_tokens else None


def forward_suffix(
    model: "HookedViT",
    stream: Float[Tensor, "batch tokens d"],
    block: int,
    grid: tuple[int, int] | None = None,
    *,
    whole: bool = False,
) -> Float[Tensor, "batch classes"]:
    """The logits of a run that starts at `block`: `model(stream, start_at_layer=block)`, with less work.

    In the last block, only the tokens that the classifier reads are used as queries and go through the MLP. Hooks on its
    queries, pattern and outputs then see those tokens alone.

    Args:
        block: the first block to run; the number of blocks for the classifier alone.
        whole: compute all tokens of the last block, for hooks that count on them.
    """
    layout = model.embed.layout_of_stream(stream.shape[1], model.cfg.grid_size, grid)
    blocks = range(block, model.cfg.n_layers)
    resid = run_blocks(model, stream, layout, blocks, n_read=None if whole else n_read(model))
    logits: Tensor = model.hook_logits(classify(model, pool(model, resid, layout)))
    return logits


def last_block_is_watched(model: "HookedViT") -> bool:
    """Whether hooks need all tokens of the last block, or of the layers after it."""
    parts = [part for part in (model.blocks[-1], model.ln_final) if part is not None]
    points = [point for part in parts for point in part.modules() if isinstance(point, HookPoint)]
    return any(point.has_hooks() for point in points)
