"""The vision towers of Hugging Face: CLIP, SigLIP, Idefics 3, InternVL and AIMv2, alone and inside other models."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitlens.parity.peers.huggingface_vit import SMALL_TOWER
from vitlens.parity.peers.peer import Case, KeepsFloat64, Peer

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
LANGUAGE: dict[str, Any] = {"model_type": "llama", **TEXT, "num_key_value_heads": 2}
POOLED = Peer("encoder.layers", lambda module, images: module(images).pooler_output)
TOKENS = Peer("encoder.layers", lambda module, images: module(images).last_hidden_state.mean(dim=1))
CLASSIFIED = Peer("vision_model.encoder.layers", lambda module, images: module(images).logits)
PROJECTED = Peer("vision_model.encoder.layers", lambda module, images: module(images).image_embeds)
OF_BOTH = Peer("vision_model.encoder.layers", lambda module, images: module.get_image_features(images).pooler_output)


def _inside(path: str) -> Peer:
    """The pooled embedding of a tower inside another model."""
    return Peer(f"{path}.encoder.layers", lambda module, images: module.get_submodule(path)(images).pooler_output)


def _tokens_in_float64(module: nn.Module, images: Tensor) -> Tensor:
    with KeepsFloat64():
        return module(images).last_hidden_state


def _clip(kind: str = "CLIPVisionModel", **options: Any) -> nn.Module:
    import transformers

    config = transformers.CLIPVisionConfig(**SMALL_TOWER | {"projection_dim": 24} | options)
    return getattr(transformers, kind)(config)


def clip_with_texts(kind: str = "CLIPModel", **options: Any) -> nn.Module:
    """A small CLIP with its tower of texts, or its classifier."""
    import transformers

    return getattr(transformers, kind)(
        transformers.CLIPConfig(vision_config=SMALL_TOWER, text_config=TEXT, projection_dim=24, **options)
    )


def _siglip(**options: Any) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**SMALL_TOWER | options))


def _siglip_with_texts(kind: str, **options: Any) -> nn.Module:
    import transformers

    texts = {key: value for key, value in TEXT.items() if key != "max_position_embeddings"}
    config = transformers.SiglipConfig(
        vision_config=SMALL_TOWER, text_config=texts | {"projection_size": 32}, **options
    )
    return getattr(transformers, kind)(config)


def llava() -> nn.Module:
    """A small LLaVA, whose tower is CLIP's."""
    from transformers import LlavaConfig, LlavaModel

    tower = {"model_type": "clip_vision_model", **SMALL_TOWER}
    return LlavaModel(LlavaConfig(vision_config=tower, text_config=LANGUAGE, image_token_index=2))


def _paligemma() -> nn.Module:
    from transformers import PaliGemmaConfig, PaliGemmaModel

    tower = {"model_type": "siglip_vision_model", **SMALL_TOWER, "projection_dim": 16}
    texts = {**LANGUAGE, "model_type": "gemma", "head_dim": 8}
    return PaliGemmaModel(
        PaliGemmaConfig(vision_config=tower, text_config=texts, projection_dim=16, image_token_index=2)
    )


def _idefics3() -> nn.Module:
    from transformers import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

    return Idefics3VisionTransformer(Idefics3VisionConfig(**SMALL_TOWER))


def _internvl(**options: Any) -> nn.Module:
    from transformers import InternVLVisionConfig, InternVLVisionModel

    return InternVLVisionModel(InternVLVisionConfig(**SMALL_TOWER | options))


def _aimv2(**options: Any) -> nn.Module:
    from transformers import Aimv2VisionConfig, Aimv2VisionModel

    return Aimv2VisionModel(Aimv2VisionConfig(**SMALL_TOWER | options))


def _aimv2_with_texts() -> nn.Module:
    from transformers import Aimv2Config, Aimv2Model

    return Aimv2Model(Aimv2Config(vision_config=SMALL_TOWER, text_config=TEXT, projection_dim=24))


def _pooled_in_float64(module: Any, images: Tensor) -> Tensor:
    with KeepsFloat64():
        return module(images).pooler_output


def _both_in_float64(module: Any, images: Tensor) -> Tensor:
    with KeepsFloat64():
        return module.get_image_features(images).pooler_output


def siglip2(**options: Any) -> nn.Module:
    """A small SigLIP 2 that reads patches."""
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    sizes = {key: value for key, value in SMALL_TOWER.items() if key != "image_size"}
    return Siglip2VisionModel(Siglip2VisionConfig(**sizes | {"num_patches": 4} | options))


def _of_cut_pictures(module: Any, images: Tensor) -> Any:
    """What SigLIP 2 returns for pictures, cut into patches."""
    patches = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=16, q=16)
    shape = torch.tensor([[images.shape[2] // 16, images.shape[3] // 16]]).expand(len(images), 2)
    with KeepsFloat64():
        return module(patches, patches.new_ones(patches.shape[:2], dtype=torch.bool), shape)


CLIP_CASES = [
    Case("Hugging Face CLIP", "plain", _clip, POOLED),
    Case("Hugging Face CLIP", "GELU, eps 1e-3", lambda: _clip(hidden_act="gelu", layer_norm_eps=1e-3), POOLED),
    Case("Hugging Face CLIP", "with projection", lambda: _clip("CLIPVisionModelWithProjection"), PROJECTED),
    Case("Hugging Face CLIP", "with texts", clip_with_texts, OF_BOTH),
    Case(
        "Hugging Face CLIP",
        "a classifier of the mean of the patches",
        lambda: clip_with_texts("CLIPForImageClassification", num_labels=5),
        CLASSIFIED,
    ),
    Case(
        "Hugging Face CLIP",
        "positions interpolated for pictures of 48 × 32",
        _clip,
        Peer("encoder.layers", lambda module, images: module(images, interpolate_pos_encoding=True).pooler_output),
        image_size=(48, 32),
        options={"img_size": (48, 32)},
    ),
    Case("Hugging Face CLIP", "inside LLaVA", llava, _inside("vision_tower")),
]
SIGLIP_CASES = [
    Case("Hugging Face SigLIP", "attention pooling", _siglip, POOLED),
    Case("Hugging Face SigLIP", "pictures of half a patch more", lambda: _siglip(image_size=40), POOLED, (40, 40)),
    Case("Hugging Face SigLIP", "without pooling", lambda: _siglip(vision_use_head=False), TOKENS),
    Case("Hugging Face SigLIP", "with texts", lambda: _siglip_with_texts("SiglipModel"), OF_BOTH),
    Case(
        "Hugging Face SigLIP",
        "a classifier of the mean of the patches",
        lambda: _siglip_with_texts("SiglipForImageClassification", num_labels=5),
        CLASSIFIED,
    ),
    Case("Hugging Face SigLIP", "inside PaliGemma", _paligemma, _inside("vision_tower")),
    Case("Hugging Face Idefics 3", "plain", _idefics3, TOKENS),
    Case(
        "Hugging Face SigLIP 2 (NaFlex)",
        "attention pooling",
        siglip2,
        Peer("encoder.layers", lambda module, images: _of_cut_pictures(module, images).pooler_output),
    ),
    Case(
        "Hugging Face SigLIP 2 (NaFlex)",
        "without pooling",
        lambda: siglip2(vision_use_head=False),
        Peer("encoder.layers", lambda module, images: _of_cut_pictures(module, images).last_hidden_state.mean(dim=1)),
    ),
]
INTERNVL_CASES = [
    Case(
        "Hugging Face InternVL",
        "without a last norm",
        _internvl,
        Peer("encoder.layer", lambda module, images: module(images).last_hidden_state[:, 1:].mean(dim=1)),
    ),
    Case(
        "Hugging Face InternVL",
        "a last norm, biases of q, k, v",
        lambda: _internvl(use_mean_pooling=False, attention_bias=True),
        Peer("encoder.layer", lambda module, images: module(images).last_hidden_state[:, 0]),
    ),
    Case(
        "Hugging Face InternVL",
        "norms of queries and keys over all heads",
        lambda: _internvl(use_qk_norm=True),
        Peer("encoder.layer", lambda module, images: _tokens_in_float64(module, images)[:, 1:].mean(dim=1)),
    ),
]
AIMV2_CASES = [
    Case("Hugging Face AIMv2", "attention pooling", _aimv2, Peer("encoder.layers", _pooled_in_float64)),
    Case(
        "Hugging Face AIMv2",
        "without pooling, biases of q, k, v",
        lambda: _aimv2(use_head=False, qkv_bias=True, mlp_bias=True),
        Peer("encoder.layers", lambda module, images: _tokens_in_float64(module, images).mean(dim=1)),
    ),
    Case(
        "Hugging Face AIMv2",
        "with texts",
        _aimv2_with_texts,
        Peer("vision_model.encoder.layers", _both_in_float64),
    ),
]
TOWER_CASES = [*CLIP_CASES, *SIGLIP_CASES, *INTERNVL_CASES, *AIMV2_CASES]
