"""The vit-pytorch library's ViT and SimpleViT."""

from typing import Any

from torch import nn

from vitlens.parity.peers.peer import Case, Peer

VIT_PYTORCH_SIZES = {
    "image_size": 32,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 48,
}


def _after_blocks(module: Any) -> list[nn.Module]:
    return [*(layer[0] for layer in list(module.transformer.layers)[1:]), module.transformer.norm]


VIT_PYTORCH_PEER = Peer("transformer.layers", lambda module, images: module(images), _after_blocks)


def _vit_pytorch(**options: Any) -> nn.Module:
    from vit_pytorch import ViT

    return ViT(**{**VIT_PYTORCH_SIZES, "dim_head": 16, **options})


def _mean_with_class_token() -> nn.Module:
    """As older versions of the library take the mean: of the class token too."""
    module: Any = _vit_pytorch()
    module.pool = "mean"
    return module


def _simple_vit() -> nn.Module:
    from vit_pytorch import SimpleViT

    return SimpleViT(**VIT_PYTORCH_SIZES, dim_head=16)


VIT_PYTORCH_CASES = [
    Case("vit-pytorch ViT", "plain", _vit_pytorch, VIT_PYTORCH_PEER),
    Case("vit-pytorch ViT", "mean of the patches", lambda: _vit_pytorch(pool="mean"), VIT_PYTORCH_PEER),
    Case("vit-pytorch ViT", "mean of all tokens", _mean_with_class_token, VIT_PYTORCH_PEER),
    Case("vit-pytorch ViT", "heads wider than the stream", lambda: _vit_pytorch(dim_head=24), VIT_PYTORCH_PEER),
    Case(
        "vit-pytorch ViT",
        "one head without an output map",
        lambda: _vit_pytorch(heads=1, dim_head=32),
        VIT_PYTORCH_PEER,
    ),
    Case("vit-pytorch SimpleViT", "plain", _simple_vit, VIT_PYTORCH_PEER),
]
