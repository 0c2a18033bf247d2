"""Intervals of shares of variance over the pictures held out, from some of them: memory stays bounded."""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from vitlens.statistics import bootstrap
from vitlens.text.names.spans import Chosen, Spread

#: Vectors of at most this many pictures are kept, and of fewer where they hold more numbers than this (0.5 GB).
MOST_PICTURES, MOST_NUMBERS = 500, 2**27


class SomeRows:
    """Rows drawn at random from all that come batch by batch: all of them while there are few.

    Each row has a random number, and those with the smallest are kept.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self.rows: Float[Tensor, "row unit width"] = torch.zeros(0, 0, 0)
        self._numbers: Float[Tensor, "row"] = torch.zeros(0)

    def add(self, rows: Float[Tensor, "row unit width"]) -> None:
        if not len(rows):
            return
        numbers = torch.cat([self._numbers, torch.rand(len(rows), generator=self._generator)])
        rows = torch.cat([self.rows.reshape(-1, *rows.shape[1:]).to(rows), rows])
        most = max(2, min(MOST_PICTURES, MOST_NUMBERS // rows[0].numel()))
        kept = numbers.topk(min(most, len(numbers)), largest=False).indices
        self.rows, self._numbers = rows[kept], numbers[kept]


def intervals(
    rows: Float[Tensor, "row head way"],
    n: int,
    mean: Float[Tensor, "head way"],
    maps: Float[Tensor, "head way joint"],
    spread: Spread,
    chosen: Chosen,
    seed: int,
) -> tuple[Float[Tensor, "head rank"], Float[Tensor, "head rank"]]:
    """The ends of the 95 % intervals of the shares that chosen texts explain of n pictures held out, texts and mean fixed.

    A bootstrap over the pictures whose coordinates are kept. Where these are fewer than n, its distances from the share are
    too large by the root of n over their number.
    """
    into = einsum(maps.double(), spread.basis, "h w e, h v e -> h w v")
    centred = einsum(rows.double() - mean, into, "i h w, h w v -> i h v")
    along = einsum(centred, chosen.directions, "i h v, h r v -> i h r").square().cumsum(dim=2)
    whole = centred.square().sum(dim=2, keepdim=True).expand_as(along)
    found = bootstrap(along.numpy(), whole.contiguous().numpy(), seed=seed)
    of_some, low, high = map(torch.from_numpy, found)
    share = chosen.held_out.cumsum(dim=1) / spread.total_held_out[:, None]
    narrower = (len(rows) / n) ** 0.5
    return tuple((share + narrower * (end - of_some)).clamp(0, 1) for end in (low, high))
