"""Small models of Hugging Face's ViT, ViT-MSN, ViT-MAE, I-JEPA and DeiT."""

from typing import Any

import torch
from torch import Tensor, nn

from vitlens.parity.peers.peer import Case, Peer

SMALL_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
}
SMALL = SMALL_TOWER | {"num_labels": 5}


def logits(module: Any, images: Tensor) -> Tensor:
    return module(images).logits


def pooled(module: Any, images: Tensor) -> Tensor:
    """The pooler's output, or the class token where there is no pooler."""
    answer = module(images)
    found = getattr(answer, "pooler_output", None)
    return answer.last_hidden_state[:, 0] if found is None else found


def _at_another_size(module: Any, images: Tensor) -> Tensor:
    return module(images, interpolate_pos_encoding=True).logits


def _all_patches(module: Any, images: Tensor) -> Tensor:
    """Of ViT-MAE, which leaves patches out, and puts the others in a random order, unless it is told otherwise."""
    config = module.config
    n_patches = (images.shape[-2] // config.patch_size) * (images.shape[-1] // config.patch_size)
    in_order = torch.arange(n_patches, device=images.device).expand(len(images), -1)
    left_out, config.mask_ratio = config.mask_ratio, 0.0
    try:
        return module(images, noise=in_order).last_hidden_state[:, 0]
    finally:
        config.mask_ratio = left_out


def small(kind: str, model: str = "ForImageClassification", *arguments: Any, **options: Any) -> nn.Module:
    """Hugging Face's model `kind + model` with a small configuration."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SMALL | options)
    return getattr(transformers, f"{kind}{model}")(config, *arguments)


def _mae_for_training() -> nn.Module:
    decoder = {f"decoder_{name}": 2 for name in ("num_attention_heads", "num_hidden_layers", "intermediate_size")}
    return small("ViTMAE", "ForPreTraining", **decoder, decoder_hidden_size=16)


def _encoder_of_mae(module: Any, images: Tensor) -> Tensor:
    return _all_patches(module.vit, images)


_CLASSIFIER = Peer("vit.layers", logits)
_DEIT = Peer("deit.layers", logits)
VIT_CASES = [
    Case("Hugging Face ViT", "classifier", lambda: small("ViT"), _CLASSIFIER),
    Case(
        "Hugging Face ViT",
        "quick GELU, eps 1e-3, no biases of q, k, v",
        lambda: small("ViT", hidden_act="quick_gelu", layer_norm_eps=1e-3, qkv_bias=False),
        _CLASSIFIER,
    ),
    Case(
        "Hugging Face ViT",
        "pictures of 32 × 48, patches of 16 × 8",
        lambda: small("ViT", image_size=(32, 48), patch_size=(16, 8)),
        _CLASSIFIER,
        image_size=(32, 48),
    ),
    Case(
        "Hugging Face ViT",
        "positions interpolated for pictures of 48 × 64",
        lambda: small("ViT"),
        Peer("vit.layers", _at_another_size),
        image_size=(48, 64),
        options={"img_size": (48, 64)},
    ),
    Case("Hugging Face ViT", "without pooler", lambda: small("ViT", "Model", False), Peer("layers", pooled)),
    Case("Hugging Face ViT", "with pooler", lambda: small("ViT", "Model"), Peer("layers", pooled)),
    Case("Hugging Face ViT-MSN", "classifier", lambda: small("ViTMSN"), _CLASSIFIER),
    Case("Hugging Face ViT-MSN", "model", lambda: small("ViTMSN", "Model"), Peer("layers", pooled)),
    Case("Hugging Face ViT-MAE", "encoder", lambda: small("ViTMAE", "Model"), Peer("layers", _all_patches)),
    Case("Hugging Face ViT-MAE", "with decoder", _mae_for_training, Peer("vit.layers", _encoder_of_mae)),
    Case("Hugging Face I-JEPA", "classifier", lambda: small("IJepa"), Peer("ijepa.layers", logits)),
    Case(
        "Hugging Face I-JEPA",
        "model",
        lambda: small("IJepa", "Model"),
        Peer("layers", lambda module, images: module(images).last_hidden_state.mean(dim=1)),
    ),
    Case("Hugging Face DeiT", "classifier of the class token", lambda: small("DeiT"), _DEIT),
    Case("Hugging Face DeiT", "both classifiers", lambda: small("DeiT", "ForImageClassificationWithTeacher"), _DEIT),
    Case(
        "Hugging Face DeiT",
        "positions interpolated for pictures of 48 × 64",
        lambda: small("DeiT"),
        Peer("deit.layers", _at_another_size),
        image_size=(48, 64),
        options={"img_size": (48, 64)},
    ),
    Case("Hugging Face DeiT", "without pooler", lambda: small("DeiT", "Model", False), Peer("layers", pooled)),
    Case(
        "Hugging Face DeiT",
        "pooler with a quick GELU, to width 24",
        lambda: small("DeiT", "Model", pooler_act="quick_gelu", pooler_output_size=24),
        Peer("layers", pooled),
    ),
]
