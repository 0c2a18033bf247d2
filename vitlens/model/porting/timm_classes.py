"""timm's classes that not every supported version of timm has, and where older versions keep them."""

from importlib import import_module
from typing import Any


def timm_class(name: str, *modules: str) -> Any:
    """timm's class of that name, from the first of these modules that has it.

    A timm without the class builds no module of it either: the result is then a class that no module is an instance of.
    """
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return type(name, (), {})


#: Older versions have one in each file of models.
LAYER_SCALES = tuple(
    {
        timm_class("LayerScale", module): None
        for module in ("timm.layers", "timm.models.vision_transformer", "timm.models.vision_transformer_relpos")
    }
)
TimmAttention = timm_class("Attention", "timm.layers", "timm.models.vision_transformer")
AttentionRope = timm_class("AttentionRope", "timm.layers")
DiffAttention = timm_class("DiffAttention", "timm.layers")
DiffParallelScalingBlock = timm_class("DiffParallelScalingBlock", "timm.models.vision_transformer")
NaFlexEmbeds = timm_class("NaFlexEmbeds", "timm.models.naflexvit")
NaFlexVit = timm_class("NaFlexVit", "timm.models.naflexvit")
PatchDropoutWithIndices = timm_class("PatchDropoutWithIndices", "timm.layers")
