"""The positions of tokens as blocks use them: rotary angles, relative positions, padding."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """The positions of one run's tokens; the embedding makes them once, every block and the pooling use them.

    `angles` are the rotary positions, one tensor for all blocks or [blocks, …]; `bias` is added to every block's scores;
    `valid` tells patches from padding where pictures of several sizes share a batch.
    """

    angles: Tensor | None = None
    angles_per_block: bool = False
    bias: Tensor | None = None
    valid: Bool[Tensor, "batch patches"] | None = None

    def angles_of(self, block: int) -> Tensor | None:
        return self.angles[block] if self.angles is not None and self.angles_per_block else self.angles


class RelPosTable(nn.Module):
    """A learned bias for every distance and head, looked up for each pair of tokens; adopts BEiT's table and index."""

    def __init__(self, holder: Any) -> None:
        super().__init__()
        self.table = holder.relative_position_bias_table
        self.register_buffer("index", holder.relative_position_index, persistent=False)

    def forward(self) -> Float[Tensor, "1 heads tokens tokens"]:
        return self.table[self.index].permute(2, 0, 1).contiguous()[None]


class RelPosModule(nn.Module):
    """timm's own RelPosBias or RelPosMlp."""

    def __init__(self, rel_pos: Any) -> None:
        super().__init__()
        self.rel_pos = rel_pos

    def forward(self) -> Float[Tensor, "1 heads tokens tokens"]:
        return self.rel_pos.get_bias()
