"""An attention pool whose output is not as wide as the tokens, which timm has not: CoCa's."""

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from timm.layers import AttentionPoolLatent
from torch import Tensor, nn


class NarrowingPool(AttentionPoolLatent):
    """timm's attention pool without an MLP, with keys and values of the output's width."""

    def __init__(self, width: int, out_features: int, num_heads: int) -> None:
        super().__init__(out_features, num_heads=num_heads)
        self.kv = nn.Linear(width, 2 * out_features)
        self.mlp: Any = None
        self.norm: Any = nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch tokens d"], attn_mask: Tensor | None = None
    ) -> Float[Tensor, "batch pooled"]:
        q = rearrange(self.q(self.latent).expand(len(x), -1, -1), "b t (h e) -> b h t e", h=self.num_heads)
        k, v = rearrange(self.kv(x), "b t (two h e) -> two b h t e", two=2, h=self.num_heads)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        pooled: Tensor = self.proj(rearrange(z, "b h 1 e -> b (h e)"))
        return pooled
