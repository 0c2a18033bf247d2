"""torchvision's VisionTransformer."""

from functools import partial
from typing import Any

from torch import nn

from vitlens.parity.peers.peer import Case, Peer

TORCHVISION_PEER = Peer("encoder.layers", lambda module, images: module(images))


def _torchvision(**options: Any) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 16, 2, 2, 32, 48, num_classes=5, **options)


TORCHVISION_CASES = [
    Case("torchvision VisionTransformer", "plain", _torchvision, TORCHVISION_PEER),
    Case(
        "torchvision VisionTransformer",
        "eps 1e-3",
        lambda: _torchvision(norm_layer=partial(nn.LayerNorm, eps=1e-3)),
        TORCHVISION_PEER,
    ),
]
