"""Named directions of the residual stream, and how a component reads them through a LayerNorm."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

D_MODEL = 64
# Every token carries the feature "constant" this strongly; other features are about 1. It alone sets LayerNorm's scale, so
# that one component changes what another reads by well under 1 %: its squared share of the norm.
CONSTANT = 60.0


class Stream:
    """Orthonormal directions, one for each member of each family of features: the family "glyph" has four.

    All have mean zero, so that LayerNorm's centring leaves them alone. `seen` are written by the patch embedding, `held`
    by components of the circuit; what directions remain are the family "idle", which the circuit never reads.
    """

    def __init__(
        self,
        seen: Mapping[str, int],
        held: Mapping[str, int],
        generator: torch.Generator,
        *,
        constant: float = CONSTANT,
    ) -> None:
        self.seen = dict(seen)
        self.constant = constant
        sizes = {"constant": 1, "class token": 1, **seen, **held}
        sizes["idle"] = D_MODEL - 1 - sum(sizes.values())
        spread = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
        spread[:, 0] = 1
        directions = torch.linalg.qr(spread).Q.T[1:]
        self._families = dict(zip(sizes, directions.split(list(sizes.values())), strict=True))

    def __contains__(self, family: str) -> bool:
        return family in self._families

    def __getitem__(self, family: str) -> Float[Tensor, "member d"]:
        """The directions of a family: what a component writes."""
        return self._families[family]

    def read(self, family: str) -> Float[Tensor, "member d"]:
        """Rows that give the strength of a family's members when they are applied to a stream behind LayerNorm."""
        return self[family] * self.constant / D_MODEL**0.5

    def read_dominant(self, family: str) -> Float[Tensor, "1 d"]:
        """A row that gives 1 where this feature sets LayerNorm's scale, and next to nothing where another does."""
        return self[family] / D_MODEL**0.5

    @property
    def unit(self) -> Float[Tensor, "1 d"]:
        """A row that gives 1 at every ordinary token."""
        return self.read_dominant("constant")

    def read_content(self, *, with_idle: bool) -> Float[Tensor, "feature d"]:
        """Rows for every feature that tells one token or picture from another; idle directions too if wanted."""
        left_out = {"constant", "large"} | (set() if with_idle else {"idle"})
        return torch.cat([self.read(family) for family in self._families if family not in left_out])
