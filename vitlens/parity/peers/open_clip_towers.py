"""Towers of open_clip: its own vision transformer, and models of timm."""

from functools import partial
from typing import Any

from torch import nn

from vitlens.parity.peers.peer import Case, Peer

VISION: dict[str, Any] = {
    "layers": 2,
    "width": 32,
    "head_width": 16,
    "mlp_ratio": 1.5,
    "patch_size": 16,
    "image_size": 32,
}
READER: dict[str, Any] = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
OF_TIMM: dict[str, Any] = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
_WHOLE = Peer("visual.transformer.resblocks", lambda module, images: module.encode_image(images))
_TOWER = Peer("transformer.resblocks", lambda module, images: module(images))
_OF_TIMM = Peer("visual.trunk.blocks", lambda module, images: module.encode_image(images))


def open_clip_model(quick_gelu: bool = False, kind: str = "CLIP", embed_dim: int = 24, **options: Any) -> nn.Module:
    """A small model of open_clip with a tower of its own."""
    import open_clip

    return getattr(open_clip, kind)(embed_dim, {**VISION, **options}, READER, quick_gelu=quick_gelu)


def open_clip_trunk(**options: Any) -> nn.Module:
    """A small model of open_clip whose tower is timm's."""
    import open_clip

    return open_clip.CLIP(24, {**OF_TIMM, **options}, READER)


def _visual(**options: Any) -> nn.Module:
    visual: Any = open_clip_model(**options).visual
    return visual


OPEN_CLIP_CASES = [
    Case("CLIP (OpenAI, open_clip)", "GELU", open_clip_model, _WHOLE),
    Case(
        "CLIP (OpenAI, open_clip)",
        "quick GELU, texts in a part of their own",
        lambda: open_clip_model(True, "CustomTextCLIP"),
        _WHOLE,
    ),
    Case("CLIP's vision tower (OpenAI, open_clip)", "eps 1e-3", lambda: _visual(norm_kwargs={"eps": 1e-3}), _TOWER),
    Case(
        "CLIP's vision tower (OpenAI, open_clip)",
        "no norm before the blocks, patch dropout, LayerScale",
        lambda: _visual(no_ln_pre=True, patch_dropout=0.5, ls_init_value=0.1),
        _TOWER,
    ),
    Case(
        "CLIP's vision tower (OpenAI, open_clip)",
        "the mean of normed patches",
        lambda: _visual(pool_type="avg"),
        _TOWER,
    ),
    Case(
        "CLIP's vision tower (OpenAI, open_clip)",
        "a norm of the mean of patches",
        lambda: _visual(pool_type="avg", final_ln_after_pool=True),
        _TOWER,
    ),
    Case(
        "CLIP's vision tower (OpenAI, open_clip)",
        "a norm of the class token, norms inside attention and MLP",
        lambda: _visual(final_ln_after_pool=True, qk_norm=True, scale_attn_inner=True, scale_fc=True),
        _TOWER,
    ),
    *(
        Case(
            "CLIP's vision tower (OpenAI, open_clip)",
            f"CoCa's pooling, {name}",
            partial(_visual, attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=heads, **options),
            _TOWER,
        )
        for name, heads, options in (("narrower", 3, {}), ("as wide as the tokens", 4, {"embed_dim": 32}))
    ),
    *(
        Case("open_clip with a model of timm", name, partial(open_clip_trunk, **options), _OF_TIMM, (160, 160))
        for name, options in {
            "projection": {},
            "projection with a hidden layer": {"timm_proj": "mlp"},
            "projection of the mean": {"timm_pool": "avg"},
            "timm's classifier": {"timm_pool": "avg", "timm_proj": ""},
            "no projection": {"timm_pool": "avg", "timm_proj": "none"},
        }.items()
    ),
]
