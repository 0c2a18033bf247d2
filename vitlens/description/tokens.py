"""The kinds of tokens that a model has, the places of its patches, and the rule for outlier patches."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.model.hooked_vit import HookedViT

#: The kind of token that a patch with an outlier norm counts as.
OUTLIER = "outlier patch"


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of pictures of one size: `kinds` ("class", "distillation", "register", "patch", as far as they occur),
    the kind of every token, and the distances between patches in pixels."""

    kinds: list[str]
    kind_of: Int[Tensor, "tokens"]
    n_prefix: int
    grid: tuple[int, int]
    distance: Float[Tensor, "patch patch2"]
    neighbours: Bool[Tensor, "patch patch2"]

    @property
    def prefix_kinds(self) -> list[str]:
        return [kind for kind in self.kinds if kind != "patch"]

    @property
    def class_token(self) -> int | None:
        """Where the class token stands."""
        return int((self.kind_of == self.kinds.index("class")).nonzero()[0]) if "class" in self.kinds else None

    def of_kind(self, kind: str) -> Bool[Tensor, "tokens"]:
        return self.kind_of == self.kinds.index(kind)


def token_layout(model: HookedViT, height: int, width: int) -> TokenLayout:
    """The layout of pictures of this size; distances are those of the patches' centres, neighbours the (up to) 8 around."""
    rows, columns = model.embed.grid(height, width)
    grid = (int(rows), int(columns))
    labels = [_kind(label) for label in model.cfg.prefix_tokens] + ["patch"] * (grid[0] * grid[1])
    kinds = list(dict.fromkeys(labels))
    places = torch.cartesian_prod(*(torch.arange(n, device=model.device) for n in grid))
    steps = (places[:, None] - places[None]).abs()
    pixels = steps * torch.tensor(model.cfg.patch_size, device=model.device)
    return TokenLayout(
        kinds,
        torch.tensor([kinds.index(kind) for kind in labels], device=model.device),
        model.cfg.n_prefix_tokens,
        grid,
        pixels.to(torch.promote_types(model.dtype, torch.float32)).norm(dim=-1),
        steps.amax(dim=-1) == 1,
    )


def _kind(label: str) -> str:
    return "register" if label.startswith("register") else label


def at_least_single(x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Half precision as single: sums and squares over many tokens need more than 8 or 11 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def outlier_patches(norms: Float[Tensor, "*batch patch"], threshold: float) -> Bool[Tensor, "*batch patch"]:
    """The patches whose norm exceeds `threshold` times the median of their picture's patches.

    The definition of `find_register_neurons`. Source: after Darcet et al. 2024 (arXiv:2309.16588), who cut at a number
    chosen for each model; the median fits every model.
    """
    return norms > threshold * norms.median(dim=-1, keepdim=True).values
