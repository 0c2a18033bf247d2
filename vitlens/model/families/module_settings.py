"""Reads from a module what the names of its tensors do not tell: heads, the eps of norms, the activation, colours."""

from typing import Any

from torch import nn

from vitlens.errors import InputError

#: Classes of activations → Hugging Face's names.
ACTIVATION_CLASSES = {
    "GELUActivation": "gelu",
    "QuickGELUActivation": "quick_gelu",
    "PytorchGELUTanh": "gelu_pytorch_tanh",
    "QuickGELU": "quick_gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
}
#: What libraries call the number of heads of an attention.
HEADS_CALLED = ("num_heads", "heads", "num_attention_heads")


def read_module_settings(module: nn.Module) -> dict[str, Any]:
    """The settings of a module without a configuration, by Hugging Face's names; the module itself as "module".

    Of a model with several towers, its `visual` is read.

    Raises:
        InputError: norms of several eps, or several activations.
    """
    tower: Any = getattr(module, "visual", module)
    # An attention that pools has heads of its own.
    parts = [(name, part) for name, part in tower.named_modules() if not name.startswith("attn_pool")]
    found: dict[str, Any] = {"module": module}
    heads = [getattr(part, name) for _, part in parts for name in HEADS_CALLED if hasattr(part, name)]
    heads = [number for number in heads if isinstance(number, int)]
    settings = {
        "num_attention_heads": ("heads", set(heads)),
        "layer_norm_eps": ("eps of layer norms", {part.eps for _, part in parts if isinstance(part, nn.LayerNorm)}),
        "hidden_act": ("activations", {_activation(part) for _, part in parts} - {None}),
    }
    for key, (words, values) in settings.items():
        if len(values) > 1:
            raise InputError(f"the {type(module).__name__} has {words} of several kinds: {', '.join(map(str, values))}")
        if values:
            found[key] = values.pop()
    for key in ("image_mean", "image_std"):
        if getattr(tower, key, None) is not None:
            found[key] = tuple(getattr(tower, key))
    return found


def _activation(part: nn.Module) -> str | None:
    if isinstance(part, nn.GELU):
        return "gelu" if part.approximate == "none" else "gelu_pytorch_tanh"
    return ACTIVATION_CLASSES.get(type(part).__name__)
