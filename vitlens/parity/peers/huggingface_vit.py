"""Hugging Face's ViT, DeiT, ViT-MSN and ViT-MAE."""

from typing import Any

from torch import nn

from vitlens.parity.peers.peer import Case, Peer

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
    "num_labels": 5,
}
CLASSIFIER = Peer("vit.layers", lambda module, images: module(images).logits)


def _vit(**options: Any) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**SMALL | options))


VIT_CASES = [
    Case("Hugging Face ViT", "plain", _vit, CLASSIFIER),
    Case(
        "Hugging Face ViT",
        "quick GELU, eps 1e-3, no biases of q, k, v",
        lambda: _vit(hidden_act="quick_gelu", layer_norm_eps=1e-3, qkv_bias=False),
        CLASSIFIER,
    ),
]
