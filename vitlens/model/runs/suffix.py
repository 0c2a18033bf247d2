"""The rest of a forward, from the stream that enters a block: only what is read of it, for many runs at once."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from vitlens.model.config import HookedViTConfig
from vitlens.model.parts.block import AnyBlock
from vitlens.model.parts.embedding import Embedding
from vitlens.model.parts.norm import Norm
from vitlens.model.parts.pooling import Pool
from vitlens.model.parts.positions import Layout


class SuffixRuns(nn.Module):
    """The part of a HookedViT that goes on from the middle, many runs at once."""

    cfg: HookedViTConfig
    embed: Embedding
    blocks: Sequence[AnyBlock]
    pool: Pool
    pool_dist: Pool | None

    @property
    def n_read(self) -> int | None:
        """How many of the first tokens hold all that the classifier reads; None where it reads patches."""
        last = self.pool.tokens.stop if self.pool_dist is None else self.pool_dist.tokens.stop
        return last if last is not None and last <= self.cfg.n_prefix_tokens else None

    def forward_suffix(
        self,
        stream: Float[Tensor, "batch tokens d"],
        block: int,
        grid: tuple[int, int] | None = None,
        *,
        whole: bool = False,
    ) -> Float[Tensor, "batch classes"]:
        """The logits of a run that starts at `block`: `model(stream, start_at_layer=block)`, with less work.

        In the last block only the tokens that the classifier reads ask what others hold and pass the MLP. Hooks on its
        queries, pattern and outputs then see those tokens alone.

        Args:
            block: the first block to run; the number of blocks for the classifier alone.
            whole: compute all tokens of the last block, for hooks that count on them.
        """
        layout = self.embed.layout_of_stream(stream.shape[1], self.cfg.grid_size, grid)
        last = self.cfg.n_layers - 1
        resid = stream
        for index in range(block, last + 1):
            n_read = self.n_read if index == last and not whole else None
            resid = self.blocks[index](resid, layout.angles_of(index), layout.bias, n_read)
        logits: Tensor = self.hook_logits(self._classify(self._pool(resid, layout)))
        return logits

    def last_block_is_watched(self) -> bool:
        """Whether somebody's hooks count on all tokens of the last block, or of what follows it."""
        parts = [part for part in (self.blocks[-1], self.ln_final) if part is not None]
        points = [point for part in parts for point in part.modules() if isinstance(point, HookPoint)]
        return any(point.has_hooks() for point in points)

    hook_logits: HookPoint
    ln_final: Norm | None

    def _pool(self, resid: Tensor, layout: Layout) -> list[Tensor]:
        raise NotImplementedError

    def _classify(self, features: list[Tensor]) -> Tensor:
        raise NotImplementedError
