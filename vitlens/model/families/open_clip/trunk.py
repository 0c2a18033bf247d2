"""open_clip's towers that are models of timm, with a projection behind them."""

from typing import Any

import timm
from timm.layers import Mlp, to_2tuple
from torch import nn

from vitlens.errors import InputError
from vitlens.model.checkpoints.files import State
from vitlens.model.families.family import Config, Family
from vitlens.model.families.huggingface.towers import projection
from vitlens.model.families.keys import translate
from vitlens.model.families.open_clip.settings import preprocessing
from vitlens.model.families.open_clip.whole import of_whole_model
from vitlens.model.families.recipe import Recipe

PROJECTION_NAMES = {
    "head.proj": "head",
    "head.mlp.fc1": "head.fc1",
    "head.mlp.fc2": "head.fc2",
}


def read_trunk(state: State, config: Config) -> Recipe:
    """The output is the embedding that is compared with texts: what timm's model returns, projected.

    Raises:
        InputError: timm's name of the trunk is not known.
    """
    if "timm_model_name" not in config:
        raise InputError(
            "the weights do not show whose they are of timm's models: pass the folder with open_clip_config.json"
        )
    projected, rest = translate(state, PROJECTION_NAMES)
    trunk = {key.removeprefix("trunk."): tensor for key, tensor in rest.items()}
    keywords = {
        "name": config["timm_model_name"],
        "pool": config["timm_pool"],
        "projects": config["projects"],
        "n_outputs": config["num_outputs"],
        "img_size": to_2tuple(config["image_size"]),
    }
    return Recipe(
        build_trunk,
        keywords,
        trunk | projected,
        parts=_head(projected),
        pretrained_cfg=preprocessing(config),
    )


def build_trunk(name: str, pool: str, projects: bool, n_outputs: int, img_size: tuple[int, int]) -> nn.Module:
    """timm's model as open_clip makes it.

    Where a projection follows, open_clip changes the pooling of a finished model, which leaves its norms where they were.
    """
    if projects:
        module: Any = timm.create_model(name, pretrained=False)
        module.reset_classifier(0, **({"global_pool": pool} if pool else {}))
    else:
        module = timm.create_model(name, pretrained=False, num_classes=n_outputs, global_pool=pool)
    if hasattr(module, "set_input_size"):
        module.set_input_size(img_size)
    return module


def _head(projected: State) -> dict[str, Any]:
    if "head.fc1.weight" not in projected:
        return projection(projected)
    hidden, width = projected["head.fc1.weight"].shape
    width_out, bias = len(projected["head.fc2.weight"]), "head.fc2.bias" in projected
    return {"head": lambda: Mlp(width, hidden, width_out, bias=(True, bias))}


_MARKS = ("trunk.patch_embed.proj.weight", "trunk.blocks.0.norm1.weight")
OPEN_CLIP_TRUNK = Family(
    "open_clip with a model of timm",
    tuple(f"visual.{mark}" for mark in _MARKS),
    of_whole_model(read_trunk),
    model_types=("open_clip",),
)
OPEN_CLIP_TRUNK_ALONE = Family("open_clip's visual of timm", _MARKS, read_trunk, model_types=("open_clip",))
