"""What `attention` gives: the attention of some heads to every token, and to the patches as maps."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from vitlens.results.result import Result


@dataclass(frozen=True, repr=False)
class AttentionMaps(Result):
    """Attention [image, head, token] of each head from one set of queries (the mean over them) to every token.

    A row sums to 1, prefix tokens included; with differential attention, which subtracts one softmax from another, it sums
    to 1 − λ. `queries` [image, token] are the tokens whose attention it is; none for the pool's own heads, whose query is
    learned. `grid` is the rows and columns of patches.
    """

    queries: Bool[Tensor, "image token"]
    grid: tuple[int, int] | list[int]
    n_prefix_tokens: int

    def maps(self) -> Float[Tensor, "image head row column"]:
        """The attention to the patches, on their grid."""
        return self.values[..., self.n_prefix_tokens :].unflatten(-1, tuple(self.grid))

    def prefix(self) -> Float[Tensor, "image head token"]:
        """The attention to the class token, registers and other prefix tokens."""
        return self.values[..., : self.n_prefix_tokens]
