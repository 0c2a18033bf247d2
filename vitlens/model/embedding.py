"""From pictures to the stream that enters block 0: patches, prefix tokens, positions."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn


class Embedding(nn.Module):
    """Adopts timm's patch stem, prefix tokens and position table; HookedViT puts the hook points between the steps."""

    def __init__(
        self,
        patch_embed: Any,
        prefix: list[nn.Parameter],
        pos_embed: nn.Parameter | None,
        no_embed_class: bool,
        dynamic_img_size: bool,
    ) -> None:
        super().__init__()
        self.patch_embed: Any = patch_embed
        self.prefix = nn.ParameterList(prefix)
        self.pos_embed = pos_embed
        self.no_embed_class = no_embed_class
        self.dynamic_img_size = dynamic_img_size

    @property
    def n_prefix_tokens(self) -> int:
        return sum(token.shape[1] for token in self.prefix)

    @property
    def patch_embed_weight(self) -> Tensor:
        """A parameter of the stem: it tells device and dtype."""
        return next(self.patch_embed.parameters())

    def grid(self, height: int, width: int) -> tuple[int, int]:
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

    def positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 tokens d"]:
        """What is added to every token; zeros for prefix tokens that have no position of their own."""
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
