"""Makes a HookedViT: from a timm name or module, and again with fresh weights."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitlens.arguments import checked
from vitlens.data.class_names import infer_class_names
from vitlens.data.preprocessing import changed_config
from vitlens.errors import InputError
from vitlens.model.checkpoints.fit_to_model import DoesNotFitError
from vitlens.model.checkpoints.timm_models import build_timm, create
from vitlens.model.class_space import embeddings
from vitlens.model.class_space.classifier import ClassEmbeddings
from vitlens.model.families.door import read_recipe
from vitlens.model.families.for_timm_name import recipe_for_name
from vitlens.model.families.own_classes import check_own_class
from vitlens.model.families.sources import folder_of_timm
from vitlens.model.placement import read_device, read_dtype
from vitlens.model.porting import move, port
from vitlens.model.porting.timm_versions import check_computes_the_same
from vitlens.model.provenance import RANDOM, of_another_library, weights_of

if TYPE_CHECKING:
    from vitlens.model.hooked_vit import HookedViT


@torch.inference_mode(False)  # Weights made under inference_mode could never take part in a gradient.
def from_timm(
    cls: "type[HookedViT]",
    name_or_module: str | nn.Module,
    *,
    pretrained: bool = True,
    checkpoint_path: str | Path | None = None,
    use_ema: bool = True,
    class_names: Sequence[str] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    output: str | None = None,
    fold_ln: bool = False,
    fold_layer_scale: bool = False,
    center_writing_weights: bool = False,
    fold_value_biases: bool = False,
    refactor_factored_attn_matrices: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **timm_kwargs: Any,
) -> "HookedViT":
    """Makes a HookedViT from a timm name, or from a timm module, whose parameters it then shares.

    Args:
        name_or_module: e.g. "vit_base_patch16_224", "hf-hub:owner/name", "local-dir:folder", or a timm
            VisionTransformer; `vitlens.supported_models()` lists what can be ported.
        pretrained: fetch timm's weights; False for random ones.
        checkpoint_path: your own weights (safetensors, or a .pth of tensors). The numbers of classes,
            channels and registers, and the picture size if it is a square, are read from them. A file with the names of
            another library is opened as `from_pretrained` opens it, with the heads of this name.
        use_ema: if a checkpoint also holds the running average (EMA) of its weights, take the average, as timm does.
        class_names: one per class; by default those that timm saved with the weights, or its ImageNet names where the
            number of classes fits.
        mean, std, crop_pct, interpolation: the preprocessing, if it differs from timm's: mean and standard deviation
            of colours in [0, 1], one number or one for each channel; the part of the resized picture that the
            crop keeps; "bicubic", "bilinear", …. `model.preprocessing` shows it; `img_size=` sets the size.
        output: what the model's outputs mean: "softmax", "sigmoid", "identity" or "embedding", see `set_output`. By default
            those of several classes share a softmax, a single one is a number ("identity"), and the features of a model
            without a classifier, or of a CLIP tower with its projection, are an embedding.
        fold_ln, fold_layer_scale, center_writing_weights, fold_value_biases, refactor_factored_attn_matrices: exact
            rewrites of the weights, see `process_weights_`; by default the weights are timm's own.
        dtype: torch's, or its name; float32, float64, bfloat16 or float16.
        timm_kwargs: everything else timm.create_model takes: img_size, num_classes, reg_tokens, global_pool, …

    Raises:
        InputError: unknown name, no weights, weights that are not finite floats or would not be in `dtype`, a checkpoint
            that does not fit, impossible preprocessing, an `output` that does not fit, an architecture that is not ported, a
            device that is not there, a module that is compiled, quantised, hooked by torch, changed so that it contradicts
            itself, or in a training mode that matters.

    Examples:
        >>> import vitlens
        >>> model = vitlens.HookedViT.from_timm("vit_tiny_patch16_224", pretrained=False, num_classes=7)
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.n_classes
        (12, 3, 192, 7)
        >>> model.preprocessing
        Preprocessing(224 × 224 pixels, bicubic, center crop 0.9, mean 0.5, std 0.5)
    """
    target, precision = read_device(device), read_dtype(dtype)
    keywords, other = timm_kwargs, None
    if isinstance(name_or_module, str):
        try:
            module, keywords = build_timm(name_or_module, pretrained, checkpoint_path, timm_kwargs, use_ema)
        except DoesNotFitError:
            if checkpoint_path is None:
                raise
            other = recipe_for_name(name_or_module, checkpoint_path, timm_kwargs, use_ema)
            if other is None:
                raise
            module = other[0].build(other[1])
        module = module.eval()
    elif not isinstance(name_or_module, nn.Module):
        raise InputError(f"a model is a timm name or a timm module, not {name_or_module!r}")
    else:
        of_a_name = {
            "checkpoint_path": checkpoint_path is not None,
            "pretrained": not pretrained,
            "use_ema": not use_ema,
        }
        given = [*timm_kwargs, *(name for name, is_given in of_a_name.items() if is_given)]
        if given:
            raise InputError(f"a timm module is taken as it is: {', '.join(given)} goes with a model name")
        module = name_or_module
    if target is not None or precision is not None:
        module = move(module, target, precision)
    parts = port(module)
    parts.cfg.data_config = changed_config(parts.cfg.data_config, mean, std, crop_pct, interpolation)
    model = cls(parts, class_names if class_names is not None else infer_class_names(module, parts.cfg.n_classes))
    # torch would register it as a submodule.
    object.__setattr__(model, "timm_module", module)
    if output is not None:
        model.set_output(output)
    check_computes_the_same(module, model)
    model.provenance = weights_of(name_or_module, module, pretrained, checkpoint_path)
    processing = {
        "fold_ln": fold_ln,
        "fold_layer_scale": fold_layer_scale,
        "center_writing_weights": center_writing_weights,
        "fold_value_biases": fold_value_biases,
        "refactor_factored_attn_matrices": refactor_factored_attn_matrices,
    }
    if any(processing.values()):
        model.process_weights_(**processing)
    if other is not None:
        model.architecture, model.provenance = other[0].fresh, replace(model.provenance, weights=other[1])
    elif isinstance(name_or_module, str):
        model.architecture = partial(create, name_or_module, {**keywords, "num_classes": model.cfg.n_classes})
    return model


#: What `from_timm` takes with a module too: all its keywords but those that go with a name.
OPTIONS = [
    name
    for name, parameter in signature(from_timm).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in ("pretrained", "checkpoint_path", "use_ema")
]


@torch.inference_mode(False)
def from_pretrained(
    cls: "type[HookedViT]",
    source: Any,
    *,
    n_heads: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    use_ema: bool = True,
    **options: Any,
) -> "HookedViT":
    """Makes a HookedViT from a model of another library: Hugging Face, open_clip, torchvision, CLIP, DINO, vit-pytorch, ….

    It is rebuilt from timm's parts, which compute the same. `from_timm` opens models of timm.

    Args:
        source: a module of that library, its state dict, a folder with config.json and weights, a file of weights
            (safetensors, or a .pth of tensors), or "owner/name" on Hugging Face's hub; what it is is read from the names
            of its tensors.
        n_heads: the number of heads, where a file has no configuration and its width is that of no published model.
        img_size: the size of the pictures that the model is to read, one number or height and width, where its library
            interpolates positions; they are interpolated as that library does.
        use_ema: if a file also holds the running average (EMA) of its weights, take the average.
        options: class_names, mean, std, crop_pct, interpolation, output, fold_ln, …, device and dtype as `from_timm` takes
            them.

    Raises:
        InputError: a source that cannot be read, a kind of model that vitlens does not know (the nearest are named), tensors
            that would not be used, a module of a class of your own that answers otherwise than the model of its weights,
            and what `from_timm` refuses.

    Examples:
        >>> import vitlens
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32)
        >>> model = vitlens.HookedViT.from_pretrained(ViTForImageClassification(config).eval())
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.grid_size
        (2, 2, (2, 2))
    """
    folder = folder_of_timm(source)
    if folder is not None:
        size: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
        return cls.from_timm(f"local-dir:{folder}", **size, **options)
    unknown = [option for option in options if option not in OPTIONS]
    if unknown:
        raise InputError(
            f"from_pretrained takes {', '.join(OPTIONS)}, and not {', '.join(unknown)}: the model is as its source has it"
        )
    recipe, said = read_recipe(source, n_heads, img_size, use_ema)
    model = cls.from_timm(recipe.build(said), **options)
    if isinstance(source, nn.Module):
        check_own_class(source, model)
    model.architecture = recipe.fresh
    model.provenance = of_another_library(source, said)
    return model


@checked
def with_fresh_weights(self: "HookedViT", seed: int = 0) -> "HookedViT":
    """The same architecture with freshly initialised weights: the random baseline (Methods A4).

    The weights are timm's initialisation under this seed; a classifier that timm initialises to zero gets random
    weights too, because all its classes would have one rank.

    Raises:
        InputError: the model was made from a timm module: set `model.architecture` to a function that makes one.
    """
    if self.architecture is None:
        raise InputError(
            f"{self.cfg.model_name} was made from a timm module, which cannot be built again: set "
            "model.architecture to a function without arguments that makes such a module"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = self.architecture().eval()
        given = isinstance(self.unembed, ClassEmbeddings)
        names = None if given else self.class_names
        fresh = type(self).from_timm(module.to(self.device, self.dtype), class_names=names)
        fresh.cfg.data_config, fresh.preprocessing = self.cfg.data_config, self.preprocessing
        if given:
            embeddings.read_like(fresh, self)
        classifiers = [] if fresh.unembed is None else fresh.classifiers
        for layer in (layer for head in classifiers for layer in head.modules()):
            if isinstance(layer, nn.Linear) and not layer.weight.any():
                nn.init.trunc_normal_(layer.weight, std=0.02)
    fresh.set_output(self.cfg.output)
    fresh.set_text_tower(self.text_tower)
    fresh.architecture = self.architecture
    fresh.provenance = RANDOM
    return fresh
