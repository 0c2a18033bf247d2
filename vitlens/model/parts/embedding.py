"""Computes the residual stream that enters block 0 from pictures: patches, prefix tokens, positions."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vitlens.errors import InputError
from vitlens.model.parts.positions import Layout

Grid = tuple[int, int]


class Embedding(nn.Module):
    """Adopts timm's patch stem, prefix tokens, position table, rotary positions and shared relative positions.

    HookedViT puts the hook points between the steps.
    """

    def __init__(
        self,
        patch_embed: Any,
        prefix: list[nn.Parameter],
        pos_embed: nn.Parameter | None = None,
        no_embed_class: bool = False,
        dynamic_img_size: bool = False,
        rope: Any = None,
        rope_per_block: bool = False,
        rel_pos: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.patch_embed: Any = patch_embed
        self.prefix = nn.ParameterList(prefix)
        self.pos_embed = pos_embed
        self.no_embed_class = no_embed_class
        self.dynamic_img_size = dynamic_img_size
        self.rope: Any = rope
        self.rope_per_block = rope_per_block
        self.rel_pos = rel_pos

    @property
    def n_prefix_tokens(self) -> int:
        return sum(token.shape[1] for token in self.prefix)

    @property
    def patch_embed_weight(self) -> Tensor:
        """A parameter of the stem: it tells device and dtype."""
        return next(self.patch_embed.parameters())

    @property
    def pads(self) -> bool:
        """Whether pictures are padded to whole patches."""
        return self.patch_embed.dynamic_img_pad

    @property
    def has_positions(self) -> bool:
        """Whether there is a table of positions to add."""
        return self.pos_embed is not None

    def grid(self, height: int, width: int) -> Grid:
        """Rows and columns of patches for pictures of this size."""
        if self.dynamic_img_size:
            return self.patch_embed.dynamic_feat_size((height, width))
        return self.patch_embed.grid_size

    def patches(self, images: Tensor) -> Float[Tensor, "batch patches d"]:
        patches = self.patch_embed(images)
        # With dynamic_img_size timm's stem leaves the grid open: [batch, rows, columns, d].
        return patches.flatten(1, -2)

    def with_prefix(self, patches: Float[Tensor, "batch patches d"]) -> Float[Tensor, "batch tokens d"]:
        prefix = [token.expand(len(patches), -1, -1) for token in self.prefix]
        return torch.cat([*prefix, patches], dim=1)

    def positions(self, images: Tensor) -> Float[Tensor, "1 tokens d"]:
        """What is added to every token; zeros for prefix tokens that have no position of their own."""
        return self.positions_of_grid(self.grid(*images.shape[-2:]))

    def positions_of_grid(self, grid: Grid) -> Float[Tensor, "1 tokens d"]:
        assert self.pos_embed is not None
        positions = self.pos_embed
        if self.dynamic_img_size:
            positions = resample_abs_pos_embed(
                positions,
                new_size=list(grid),
                old_size=list(self.patch_embed.grid_size),
                num_prefix_tokens=0 if self.no_embed_class else self.n_prefix_tokens,
            )
        return F.pad(positions, (0, 0, self.n_prefix_tokens, 0)) if self.no_embed_class else positions

    def layout(self, images: Tensor) -> Layout:
        """What the blocks need to know about the positions of the tokens of these pictures."""
        return self.layout_of_grid(self.grid(*images.shape[-2:]))

    def layout_of_grid(self, grid: Grid) -> Layout:
        bias = None if self.rel_pos is None else self.rel_pos()
        if self.rope is None:
            return Layout(bias=bias)
        # timm's rotary modules keep the angles of a fixed size ready, and make those of others when told the grid.
        ready = not self.dynamic_img_size and hasattr(self.rope, "feat_shape")
        angles = self.rope.get_embed() if ready else self.rope.get_embed(shape=grid)
        return Layout(angles, self.rope_per_block, bias)

    def layout_of_stream(self, n_tokens: int, own_grid: Grid, grid: Grid | None) -> Layout:
        """The layout of a run that starts in the middle, from a stream of `n_tokens`.

        Raises:
            InputError: rotary positions need the grid of patches, and the number of tokens does not tell it.
        """
        if self.rope is None:
            return self.layout_of_grid(own_grid)
        chosen = own_grid if grid is None else grid
        if self.n_prefix_tokens + chosen[0] * chosen[1] != n_tokens:
            raise InputError(
                f"a stream of {n_tokens} tokens does not fit a grid of {chosen[0]} × {chosen[1]} patches: "
                "pass grid=(rows, columns), which this model's rotary positions need"
            )
        return self.layout_of_grid(chosen)
