"""Reads what the tensors of an open_clip tower do not tell, from its module or from open_clip_config.json."""

from collections.abc import Mapping
from typing import Any

from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import nn

from vitlens.errors import InputError

#: open_clip's names of how pictures are resized → timm's names of how they are cut.
CROPS = {"shortest": "center", "squash": "squash", "longest": "border"}


def settings_of_module(module: Any) -> dict[str, Any]:
    """The settings of a whole model of open_clip, or of its `visual`, by the names that Hugging Face's configurations have.

    Raises:
        InputError: it is no tower of pictures, or one that vitlens does not know.
    """
    tower = getattr(module, "visual", module)
    found: dict[str, Any] = {"model_type": "open_clip", "preprocess_cfg": getattr(tower, "preprocess_cfg", None)}
    kind = type(tower).__name__
    if kind == "TimmModel":
        trunk = tower.trunk
        return found | {
            "timm_model_name": trunk.pretrained_cfg["architecture"],
            "timm_pool": trunk.global_pool,
            "image_size": tower.image_size,
            "projects": len(tower.head) > 0,
            "num_outputs": trunk.num_classes,
        }
    if kind != "VisionTransformer":
        raise InputError(f"this {type(module).__name__} sees with a {kind}, which vitlens does not read")
    block = tower.transformer.resblocks[0]
    pool = tower.attn_pool
    return found | {
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": _activation(block.mlp.gelu),
        "layer_norm_eps": tower.ln_post.eps,
        "image_size": tower.image_size,
        "pool_type": tower.pool_type,
        "final_ln_after_pool": tower.final_ln_after_pool,
        "attn_pooler_heads": None if pool is None else pool.attn.num_heads,
    }


def settings_of_file(file: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the text of open_clip_config.json.

    Raises:
        InputError: it describes no vision transformer.
    """
    model = file.get("model_cfg", file)
    if not isinstance(model, Mapping) or not isinstance(model.get("vision_cfg"), Mapping):
        raise InputError("open_clip_config.json holds no model_cfg with a vision_cfg")
    vision = model["vision_cfg"]
    found: dict[str, Any] = {"model_type": "open_clip", "preprocess_cfg": file.get("preprocess_cfg")}
    found["image_size"] = vision.get("image_size", 224)
    if vision.get("timm_model_name"):
        kind = vision.get("timm_proj", "linear")
        return found | {
            "timm_model_name": vision["timm_model_name"],
            "timm_pool": vision.get("timm_pool", "avg"),
            "projects": kind in ("linear", "mlp"),
            # Where no projection is named, the classifier of timm's model gives the embedding.
            "num_outputs": 0 if kind else model["embed_dim"],
        }
    if isinstance(vision.get("layers"), (list, tuple)):
        raise InputError("open_clip_config.json describes a ResNet, which is no vision transformer")
    approximate = (vision.get("act_kwargs") or {}).get("approximate")
    act = "quick_gelu" if model.get("quick_gelu") else "gelu_pytorch_tanh" if approximate == "tanh" else "gelu"
    return found | {
        "num_attention_heads": vision.get("width", 768) // vision.get("head_width", 64),
        "num_hidden_layers": vision.get("layers", 12),
        "hidden_act": act,
        "layer_norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
        "pool_type": vision.get("pool_type", "tok"),
        "final_ln_after_pool": vision.get("final_ln_after_pool", False),
        "attn_pooler_heads": vision.get("attn_pooler_heads", 8) if vision.get("attentional_pool") else None,
    }


def preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a timm module carries in `pretrained_cfg` about pictures; OpenAI's colours where none are given."""
    given = config.get("preprocess_cfg") or {}
    interpolation = given.get("interpolation", "bicubic")
    return {
        "mean": tuple(given.get("mean", OPENAI_CLIP_MEAN)),
        "std": tuple(given.get("std", OPENAI_CLIP_STD)),
        # "random" is for training alone.
        "interpolation": "bicubic" if interpolation == "random" else interpolation,
        "crop_pct": 1.0,
        "crop_mode": CROPS[given.get("resize_mode", "shortest")],
        "output": "embedding",
    }


def _activation(act: Any) -> str:
    """Hugging Face's name of the activation in an MLP."""
    if isinstance(act, nn.GELU):
        return "gelu" if act.approximate == "none" else "gelu_pytorch_tanh"
    return {"QuickGELU": "quick_gelu"}.get(type(act).__name__, type(act).__name__)
