"""Finds a name and keywords by which timm builds a model again, and compares two of timm's modules."""

import copy
import inspect
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.timm_models import build_without_values, create
from vitlens.model.hooked_vit import HookedViT

#: Names of timm for each class of models in hand. They differ in the eps of norms, which no keyword tells as text.
BASES: dict[type, tuple[str, ...]] = {
    VisionTransformer: ("vit_tiny_patch16_224", "vit_base_patch32_clip_224"),
    VisionTransformerDistilled: ("deit_tiny_distilled_patch16_224",),
}
#: timm's names of activations, by class.
TIMM_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu", "GELUTanh": "gelu_tanh", "ReLU": "relu", "SiLU": "silu"}
#: What is no property of a model.
_NO_PROPERTIES = ("device", "dtype", "cache_dir", "pretrained_model_args")


def rebuilt(model: HookedViT) -> tuple[Any, dict[str, Any]]:
    """timm's module of a registered name with the model's weights, and the keywords that build it.

    Raises:
        InputError: timm builds such a model by none of the names that were tried.
    """
    module = model.timm_module
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    for name, keywords in _candidates(model):
        try:
            json.dumps(keywords)
            without_values = build_without_values(name, keywords)
            if {key: tensor.shape for key, tensor in without_values.state_dict().items()} != shapes:
                continue
            built: Any = create(name, keywords).to(model.device, model.dtype).eval()
        except (InputError, TypeError, ValueError, RuntimeError):
            continue
        built.load_state_dict(module.state_dict())
        if type(built) is type(module) and largest_difference(model, built) <= 1e-9:
            return built, keywords
    raise InputError(
        f"timm builds a {type(module).__name__} like {model.cfg.model_name} by no name that is known here, and its folders "
        "name one: save the weights as a .safetensors file, and load them into the module that your code builds"
    )


@torch.no_grad()
def largest_difference(model: HookedViT, module: nn.Module) -> float:
    """How far the answers of another module of timm are from the model's own, to two pictures of noise, in double precision.

    A share of the largest answer. Class embeddings that were set by hand are left out.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, model.cfg.n_channels, *model.cfg.image_size, generator=generator).double()
    own, other = (copy.deepcopy(one).cpu().double().eval()(images) for one in (model.timm_module, module))
    if own.shape != other.shape:
        return float("inf")
    return ((own - other).abs().max() / own.abs().max().clamp(min=1e-12)).item()


def _candidates(model: HookedViT) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of timm with keywords: those that the model was made with, then those that its parts show."""
    module = model.timm_module
    own = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
    # Newer versions of timm keep the keywords.
    made = dict(getattr(module, "_model_args", None) or {})
    if isinstance(model.architecture, partial) and model.architecture.func is create:
        made |= model.architecture.args[1]
    made = {key: value for key, value in made.items() if key not in _NO_PROPERTIES and value is not None}
    shown = _shown_keywords(module)
    bases = BASES.get(type(module), ())
    names = [own] if own is not None and timm.is_model(own) else []
    yield from ((name, made | _shown_size(module)) for name in names)
    yield from (
        (name, {key: value for key, value in shown.items() if value is not None}) for name in [*names, *bases] if bases
    )


def _shown_size(module: Any) -> dict[str, Any]:
    """The number of classes, and the picture size where timm takes one for each model."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return {"num_classes": module.num_classes} | ({} if size is None else {"img_size": list(size)})


def _shown_keywords(module: Any) -> dict[str, Any]:
    """Keywords of a VisionTransformer, as its parts show them."""
    if type(module) not in BASES:
        return {}
    block = module.blocks[0]
    if not hasattr(block, "attn") or not hasattr(block.mlp, "fc2"):
        return {}
    attn, mlp = block.attn, block.mlp
    shown = _shown_size(module) | {
        "patch_size": list(module.patch_embed.patch_size),
        "in_chans": module.patch_embed.proj.in_channels,
        "embed_dim": module.embed_dim,
        "depth": len(module.blocks),
        "num_heads": attn.num_heads,
        "mlp_ratio": _ratio(mlp.fc1.out_features, module.embed_dim),
        "qkv_bias": attn.qkv.bias is not None,
        "qk_norm": not isinstance(attn.q_norm, nn.Identity),
        "init_values": 1e-5 if hasattr(block.ls1, "gamma") else None,
        "global_pool": module.global_pool,
        "class_token": module.cls_token is not None,
        "no_embed_class": module.no_embed_class,
        "reg_tokens": module.num_reg_tokens,
        "pos_embed": "none" if module.pos_embed is None else "learn",
        "pre_norm": not isinstance(module.norm_pre, nn.Identity),
        "final_norm": not isinstance(module.norm, nn.Identity) or not isinstance(module.fc_norm, nn.Identity),
        "fc_norm": not isinstance(module.fc_norm, nn.Identity),
        "dynamic_img_size": module.dynamic_img_size,
        "act_layer": TIMM_ACTIVATIONS.get(type(mlp.act).__name__, type(mlp.act).__name__),
    }
    # Older versions of timm have fewer keywords; what is missing then shows in the shapes.
    known = inspect.signature(VisionTransformer.__init__).parameters
    of_distilled = (
        {"class_token", "reg_tokens", "no_embed_class"} if type(module) is VisionTransformerDistilled else set()
    )
    return {key: value for key, value in shown.items() if key in known and key not in of_distilled}


def _ratio(n_neurons: int, width: int) -> float:
    """What timm multiplies the width by; half a neuron more where it would round the product down."""
    ratio = n_neurons / width
    return ratio if int(width * ratio) == n_neurons else (n_neurons + 0.5) / width
