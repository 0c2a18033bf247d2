"""LeGrad: the gradient of each block's own class score with respect to that block's attention."""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import Hooks, hook_name
from vitlens.model.parts.pooling import AttentionPool
from vitlens.model.runs.gradients import gradients_enabled, gradients_of

#: Which tokens of a block's output are scored.
SCORED = ("all", "read")


def legrad(
    model: HookedViT,
    images: Float[Tensor, "image channels height width"],
    classes: Int[Tensor, "image"],
    *,
    first_block: int = 0,
    tokens: str = "all",
) -> Float[Tensor, "image patch"]:
    """mean_l mean_{heads, queries} relu(∂s_l/∂A_l), with s_l the class's score of block l's own output.

    The score depends on the block's pattern A_l directly, with what enters the block held fixed: a local gradient, so that
    each block is run once and differentiated on its own. The pattern does not multiply the gradient. Not negative. The
    paper's scaling of each map to 0..1 is left to whoever draws it.

    Models with attention pooling are scored through the pool and its norm, and A_l is the pool's pattern upon block l's
    output (heads averaged; there is one query), whatever `tokens` says.

    Args:
        first_block: average over the blocks from this one on. The paper has all of them; −2 is the released code's default.
        tokens: "all": s_l = E_c ν(mean of all tokens, prefix tokens too) + b_c, as in the released code; "read": the logit
            that the model would give if block l were the last, so that of a class token's model only the class token's
            row of the pattern counts.

    Raises:
        InputError: a block that does not exist, other tokens, a model without a classifier.

    Source: Bousselham et al. 2024 (LeGrad, arXiv 2404.03214), section 3. The released code sums over blocks, where this
    takes the mean; its scores are cosines with a text, where these are logits; and it leaves out the norm before SigLIP's
    pool, which this does not.
    """
    if tokens not in SCORED:
        raise InputError(f"the tokens that are scored are {' or '.join(SCORED)}, not {tokens!r}")
    model.require_classifier()
    first, n_layers = model.block_index(first_block), model.cfg.n_layers
    grid = model.embed.grid(*images.shape[-2:])
    with torch.no_grad():
        stream = model(images, stop_at_layer=first)
    total = stream.new_zeros(len(images), grid[0] * grid[1])
    for block in range(first, n_layers):
        if isinstance(model.pool, AttentionPool):
            with torch.no_grad():
                stream = model(stream, start_at_layer=block, stop_at_layer=block + 1, grid=grid)
            total += _pool_map(model, stream, classes, grid)
        else:
            stream, found = _block_map(model, stream, classes, block, tokens, grid)
            total += found
    return total / (n_layers - first)


def _block_map(
    model: HookedViT,
    stream: Float[Tensor, "image token d"],
    classes: Int[Tensor, "image"],
    block: int,
    tokens: str,
    grid: tuple[int, int],
) -> tuple[Float[Tensor, "image token d"], Float[Tensor, "image patch"]]:
    """The stream that leaves the block, and mean_{heads, queries} relu(∂s/∂A) of its pattern at the patches."""
    free = FreePattern()
    hooks: Hooks = [(hook_name(block, "attn.pattern"), free)]
    with gradients_enabled():
        after = model.run_with_hooks(
            stream, start_at_layer=block, stop_at_layer=block + 1, grid=grid, fwd_hooks=hooks
        )  # fmt: skip
        if tokens == "read":
            scores = model.read_out(after).gather(1, classes[:, None])
        else:
            # Projected as a patch is: in a distilled model both classifiers score the mean over tokens.
            scores = model.project_chosen(after.mean(dim=1, keepdim=True), [model.cfg.n_prefix_tokens], classes)
    positive = free.gradient(scores).clamp(min=0)
    return after.detach(), positive.mean(dim=(1, 2))[:, model.cfg.n_prefix_tokens :]


def _pool_map(
    model: HookedViT, stream: Float[Tensor, "image token d"], classes: Int[Tensor, "image"], grid: tuple[int, int]
) -> Float[Tensor, "image patch"]:
    """mean_heads relu(∂s/∂A) of the pool's pattern, when it reads this stream."""
    free = FreePattern()
    with gradients_enabled():
        logits = model.run_with_hooks(
            stream, start_at_layer=model.cfg.n_layers, grid=grid, fwd_hooks=[("pool.hook_pattern", free)]
        )
        scores = logits.gather(1, classes[:, None])
    row = torch.zeros_like(stream[..., 0])
    positive = free.gradient(scores).clamp(min=0)
    row[:, model.pool.tokens] = rearrange(positive.mean(dim=1), "b 1 k -> b k")
    return row[:, model.cfg.n_prefix_tokens :]


class FreePattern:
    """A hook that cuts the pattern off from what made it, so that a gradient can be taken with respect to it."""

    pattern: Tensor

    def __call__(self, pattern: Tensor, hook: HookPoint) -> Tensor:
        self.pattern = pattern.detach().requires_grad_()
        return self.pattern

    def gradient(self, scores: Tensor) -> Tensor:
        """∂ Σ scores / ∂ pattern; pictures do not share scores."""
        return gradients_of(scores, [self.pattern])[0]
