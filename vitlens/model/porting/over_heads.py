"""A norm of queries or keys over all heads of a token, which timm has not: InternVL's."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class QueryNormOverHeads(nn.Module):
    """RMSNorm of a token's queries before they are split into heads, in the place of timm's norm of each head."""

    def __init__(self, n_heads: int, d_head: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_heads, d_head))
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch heads tokens d_head"]) -> Float[Tensor, "batch heads tokens d_head"]:
        mean_square = x.pow(2).mean(dim=(1, 3), keepdim=True)
        return x * (mean_square + self.eps).rsqrt() * self.weight[:, None]
