"""A patch stem that is a linear map of pixels between two norms, as the vit-pytorch library has it."""

from typing import Any

from einops import rearrange
from torch import Tensor, nn


class PixelStem(nn.Module):
    """Norm, linear map and norm of the pixels of a patch, with the attributes of timm's PatchEmbed.

    The pixels of a patch are ordered by row, column and channel.
    """

    dynamic_img_pad = False

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        in_chans: int,
        embed_dim: int,
        norm_layer: Any = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        self.grid_size = (img_size[0] // patch_size[0], img_size[1] // patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        n_pixels = patch_size[0] * patch_size[1] * in_chans
        self.norm_in = norm_layer(n_pixels)
        self.proj = nn.Linear(n_pixels, embed_dim)
        self.norm = norm_layer(embed_dim)

    def feat_ratio(self, as_scalar: bool = True) -> Any:
        """The pixels of a patch along each axis."""
        return max(self.patch_size) if as_scalar else self.patch_size

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of pictures of this size."""
        return img_size[0] // self.patch_size[0], img_size[1] // self.patch_size[1]

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = self.patch_size
        pixels = rearrange(images, "b c (h rows) (w columns) -> b (h w) (rows columns c)", rows=rows, columns=columns)
        return self.norm(self.proj(self.norm_in(pixels)))
