"""Small models of Hugging Face's BEiT and Data2Vec-vision."""

from typing import Any

from torch import Tensor

from vitlens.parity.peers.huggingface_vit import logits, pooled, small
from vitlens.parity.peers.peer import Case, Peer

_BEIT = Peer("beit.layers", logits)
_DATA2VEC = Peer("data2vec_vision.encoder.layer", logits)


def _class_token_of_masked_model(module: Any, images: Tensor) -> Tensor:
    return module.layernorm(module.beit(images).last_hidden_state)[:, 0]


def _pooled(module: Any, images: Tensor) -> Tensor:
    """As `pooled`, or the mean of the patches."""
    if module.pooler is not None or not module.config.use_mean_pooling:
        return pooled(module, images)
    return module(images).last_hidden_state[:, 1:].mean(dim=1)


BEIT_CASES = [
    Case(
        "Hugging Face BEiT",
        "relative positions of each block, mean of the patches",
        lambda: small("Beit", use_relative_position_bias=True),
        _BEIT,
    ),
    Case(
        "Hugging Face BEiT",
        "relative positions shared and of each block, class token, no LayerScale, ReLU, eps 1e-3",
        lambda: small(
            "Beit",
            use_relative_position_bias=True,
            use_shared_relative_position_bias=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
            hidden_act="relu",
            layer_norm_eps=1e-3,
        ),
        _BEIT,
    ),
    Case(
        "Hugging Face BEiT",
        "shared relative positions, pictures of 32 × 48",
        lambda: small("Beit", use_shared_relative_position_bias=True, image_size=(32, 48)),
        _BEIT,
        image_size=(32, 48),
    ),
    Case(
        "Hugging Face BEiT",
        "positions and relative positions interpolated for pictures of 48 × 48",
        lambda: small("Beit", use_absolute_position_embeddings=True, use_relative_position_bias=True),
        _BEIT,
        image_size=(48, 48),
        options={"img_size": 48},
    ),
    Case("Hugging Face BEiT", "model with pooler", lambda: small("Beit", "Model"), Peer("layers", _pooled)),
    Case(
        "Hugging Face BEiT",
        "model without pooler",
        lambda: small("Beit", "Model", False),
        Peer("layers", _pooled),
    ),
    Case(
        "Hugging Face BEiT",
        "masked image modelling",
        lambda: small("Beit", "ForMaskedImageModeling", use_mask_token=True, vocab_size=7),
        Peer("beit.layers", _class_token_of_masked_model),
    ),
    Case(
        "Hugging Face Data2Vec-vision",
        "relative positions of each block, mean of the patches",
        lambda: small("Data2VecVision", use_relative_position_bias=True),
        _DATA2VEC,
    ),
    Case(
        "Hugging Face Data2Vec-vision",
        "shared relative positions, class token",
        lambda: small("Data2VecVision", use_shared_relative_position_bias=True, use_mean_pooling=False),
        _DATA2VEC,
    ),
    Case(
        "Hugging Face Data2Vec-vision",
        "model with pooler",
        lambda: small("Data2VecVision", "Model", True, use_relative_position_bias=True),
        Peer("encoder.layer", _pooled),
    ),
]
