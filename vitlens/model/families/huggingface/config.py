"""Reads Hugging Face's configurations: of a model, and of its preprocessing."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from timm.data import IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.layers import get_act_layer
from torch import nn

from vitlens.errors import InputError, reason
from vitlens.model.families.huggingface.preprocessing import read_preprocessing

#: Hugging Face's names of activations → timm's.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
#: What the outputs of a classifier mean, by Hugging Face's name of the problem; otherwise their number tells it.
OUTPUTS = {"multi_label_classification": "sigmoid", "regression": "identity"}


def full_config(given: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """All values of a configuration; a config.json leaves out those that are its class's defaults.

    Raises:
        InputError: transformers does not know the kind of model, or cannot read the values.
    """
    # Importing transformers takes a second, which only its own files need.
    from transformers import CONFIG_MAPPING, AutoConfig

    if model_type not in CONFIG_MAPPING:
        raise InputError(f"config.json: transformers knows no model_type {model_type!r}")
    values = {key: value for key, value in given.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(model_type, **values).to_dict() | {"architectures": given.get("architectures")}
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise InputError(f"config.json of a {model_type!r} cannot be read: {reason(error)}") from None


def activation(config: Mapping[str, Any], default: str = "gelu", of: str = "hidden_act") -> Any:
    """timm's class of the activation in the MLPs, or of another place that the configuration names.

    Raises:
        InputError: timm has no such activation.
    """
    name = config.get(of, default)
    if name == "tanh":
        return nn.Tanh
    if name not in ACTIVATIONS:
        raise InputError(f"{of} is {name!r}, and vitlens ports {', '.join(ACTIVATIONS)}, tanh")
    return get_act_layer(ACTIVATIONS[name])


def layer_norm(config: Mapping[str, Any], default: float) -> Any:
    """The layer norm with the configuration's eps."""
    return partial(nn.LayerNorm, eps=config.get("layer_norm_eps", default))


def require_promised(state: Mapping[str, Any], config: Mapping[str, Any], promised: Mapping[str, str]) -> None:
    """Refuses weights that lack a tensor which their configuration promises: without it the model would compute otherwise.

    Args:
        state: tensors by timm's names.
        promised: options of the configuration, and the tensor that each needs.

    Raises:
        InputError: an option is on, and its tensor is missing.
    """
    for option, name in promised.items():
        if config.get(option) and name not in state:
            raise InputError(f"the configuration has {option}, and the weights lack it ({name}): load the whole file")


def facts(
    config: Mapping[str, Any],
    mean: tuple[float, ...] = IMAGENET_INCEPTION_MEAN,
    std: tuple[float, ...] = IMAGENET_INCEPTION_STD,
    interpolation: str = "bilinear",
) -> dict[str, Any]:
    """What a timm module carries in `pretrained_cfg`: preprocessing, the names of classes, and what the output means.

    Args:
        config: with preprocessor_config.json, where there is one, as "preprocessor".
        mean, std, interpolation: those with which the family was published.
    """
    found: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": 1.0}
    names = config.get("id2label") or {}
    by_index = {int(index): str(name) for index, name in names.items()}
    if config.get("problem_type") in OUTPUTS:
        found["output"] = OUTPUTS[config["problem_type"]]
    # Hugging Face calls classes without a name LABEL_0, LABEL_1, …
    if by_index and not all(name == f"LABEL_{index}" for index, name in by_index.items()):
        found["label_names"] = [by_index[index] for index in sorted(by_index)]
    return found | read_preprocessing(config.get("preprocessor") or {})
