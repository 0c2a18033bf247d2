"""The pictures in which every head and every MLP writes most, found in one pass."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vitlens.description.tokens import TokenLayout
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.small_pictures import small_pictures

#: Pictures of each head and MLP, and the pixels of the longer side of those that are kept.
N_TOP, LONGEST = 3, 80


def head_writes(
    pattern: Float[Tensor, "image head query tokens"],
    v: Float[Tensor, "image tokens head d_head"],
    W_O: Float[Tensor, "head d_head d"],
    layout: TokenLayout,
) -> tuple[Float[Tensor, "image head"], Int[Tensor, "image head"]]:
    """How much each head writes to the class token (without one, to the patches on average), and the patch it is from.

    With u_j = v_j W_O: the length |Σ_j A_ij u_j|, mean over the tokens i that are written to, and the patch j with the
    largest Σ_i |A_ij| |u_j|. Before a norm or gate behind the mixing, where there is one.
    """
    gram = einsum(W_O, W_O, "h e d, h f d -> h e f")
    values = rearrange(v, "b t h e -> b h t e")
    rows = pattern[:, :, written_rows(layout)]
    size = _lengths(rows @ values, gram).mean(dim=-1)
    given = rows.abs().sum(dim=2) * _lengths(values, gram)
    return size, given[..., layout.n_prefix :].argmax(dim=-1)


def mlp_writes(
    out: Float[Tensor, "image tokens d"], layout: TokenLayout
) -> tuple[Float[Tensor, "image"], Int[Tensor, "image"]]:
    """The same of an MLP, which works on each token alone: written to the class token, it is from no patch (−1)."""
    lengths = out[:, written_rows(layout)].norm(dim=-1)
    strongest = lengths.argmax(dim=-1) if layout.class_token is None else torch.full((len(out),), -1)
    return lengths.mean(dim=-1), strongest.to(out.device)


def written_rows(layout: TokenLayout) -> slice:
    """The class token; without one, the patches."""
    first = layout.n_prefix if layout.class_token is None else layout.class_token
    return slice(first, None if layout.class_token is None else first + 1)


def _lengths(
    rows: Float[Tensor, "image head tokens d_head"], gram: Float[Tensor, "head d_head d_head"]
) -> Float[Tensor, "image head tokens"]:
    """|row W| with gram = W Wᵀ."""
    return einsum(rows, gram, rows, "b h t e, h e f, b h t f -> b h t").clamp(min=0).sqrt()


class TopPictures:
    """The first `N_TOP` pictures of each head (and behind them each block's MLP) so far, small, and no others."""

    def __init__(self, n_blocks: int, n_parts: int) -> None:
        self.n_seen = 0
        self.values = torch.zeros(n_blocks, n_parts, 0, dtype=torch.float64)
        self.images, self.patches = (torch.zeros(n_blocks, n_parts, 0, dtype=torch.long) for _ in range(2))
        self.pixels: dict[int, UInt8[Tensor, "height width 3"]] = {}

    def add(
        self,
        model: HookedViT,
        images: Float[Tensor, "image channels height width"],
        sizes: Float[Tensor, "image block part"],
        patches: Int[Tensor, "image block part"],
    ) -> None:
        """Takes in the next pictures."""
        numbers = torch.arange(self.n_seen, self.n_seen + len(images))
        values = torch.cat([self.values, sizes.movedim(0, -1).cpu().double()], dim=-1)
        # Equal values keep the order of the pictures, however they were batched.
        order = values.sort(dim=-1, descending=True, stable=True).indices[..., :N_TOP]
        offered = numbers.expand(*values.shape[:2], -1)
        self.values = values.gather(-1, order)
        self.images = torch.cat([self.images, offered], dim=-1).gather(-1, order)
        self.patches = torch.cat([self.patches, patches.movedim(0, -1).cpu()], dim=-1).gather(-1, order)
        wanted = self.images.unique().tolist()
        new = [number - self.n_seen for number in wanted if number >= self.n_seen]
        if new:
            small = small_pictures(model, images[new], len(new), LONGEST)
            self.pixels |= {self.n_seen + i: pixels for i, pixels in zip(new, small, strict=True)}
        self.pixels = {number: self.pixels[number] for number in wanted}
        self.n_seen += len(images)
