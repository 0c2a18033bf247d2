"""timm's VisionTransformer with classifiers that read other tokens than timm's: what models of other libraries need."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class ClassAndMeanViT(VisionTransformer):
    """The pooling "class+mean", which timm has not: the head reads the class token and, after it, the mean of the patches.

    So do DINOv2's linear classifiers, of 2 · embed_dim numbers. All keywords are timm's; the norm stands before the pooling.
    """

    def __init__(self, num_classes: int = 1000, **timm_kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="token", fc_norm=False, **timm_kwargs)
        self.global_pool: Any = "class+mean"
        self.num_classes = num_classes
        self.head = nn.Linear(2 * self.embed_dim, num_classes) if num_classes else nn.Identity()

    def pool(self, x: Float[Tensor, "batch tokens d"], pool_type: str | None = None) -> Tensor:
        if pool_type not in (None, "class+mean"):
            return super().pool(x, pool_type)
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(dim=1)], dim=-1)


class ClassOfDistilledViT(VisionTransformerDistilled):
    """A distillation token takes part in attention, and the head reads the class token alone."""

    def __init__(self, **timm_kwargs: Any) -> None:
        super().__init__(**timm_kwargs)
        self.head_dist: Any = None

    def forward_head(self, x: Float[Tensor, "batch tokens d"], pre_logits: bool = False) -> Tensor:
        read = self.head_drop(x[:, 0])
        return read if pre_logits else self.head(read)
