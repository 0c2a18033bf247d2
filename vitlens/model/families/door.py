"""The door for models of other libraries: finds out what a source is, and builds timm's module of it."""

import warnings
from dataclasses import replace
from typing import Any

from timm.layers import to_2tuple

from vitlens.errors import InputError, reason
from vitlens.model.families.huggingface.towers import tower_config
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.recognition import recognise
from vitlens.model.families.sources import OpenedSource, read_source

ImageSize = int | tuple[int, int]


def read_recipe(
    source: Any, n_heads: int | None = None, img_size: ImageSize | None = None, use_ema: bool = True
) -> tuple[Recipe, str]:
    """The recipe of a model of another library, and its kind and name in words.

    Raises:
        InputError: a source that cannot be read, of no known family, or that contradicts itself.
    """
    return recipe_of(read_source(source), n_heads, img_size, use_ema)


def recipe_of(
    read: OpenedSource, n_heads: int | None = None, img_size: ImageSize | None = None, use_ema: bool = True
) -> tuple[Recipe, str]:
    """The same of a source that is read."""
    if n_heads is not None and not _is_count(n_heads):
        raise InputError(f"n_heads is a number of heads, not {n_heads!r}")
    told = tower_config(read.config)
    heads_told = told.get("num_attention_heads")
    if n_heads is not None and heads_told not in (None, n_heads):
        raise InputError(f"{read.name} says that it has {heads_told} heads: leave n_heads={n_heads} out")
    size = None if img_size is None else to_2tuple(img_size)
    if size is not None and (len(size) != 2 or not all(map(_is_count, size))):
        raise InputError(f"img_size is one number, or height and width, not {img_size!r}")
    family, state, wrapper = recognise(read, use_ema)
    given = {"num_attention_heads": n_heads, "img_size": size}
    config = {**read.config, **{name: value for name, value in given.items() if value is not None}}
    try:
        recipe = family.read(state, config)
    except (KeyError, RuntimeError, StopIteration) as error:
        raise InputError(
            f"{read.name} has names of {family.name}, and its tensors do not fit together: {reason(error)} is missing or of "
            "another shape"
        ) from None
    recipe = replace(recipe, pretrained_cfg={"architecture": family.name, **recipe.pretrained_cfg})
    if size is not None and tuple(recipe.keywords["img_size"]) != size:
        own = " × ".join(map(str, recipe.keywords["img_size"]))
        raise InputError(f"{family.name} is opened at the size of its own pictures, {own}: leave img_size= out")
    depth = told.get("num_hidden_layers") if read.is_folder else None
    if depth is not None and depth != recipe.keywords.get("depth", depth):
        raise InputError(
            f"{read.name} holds the weights of {recipe.keywords['depth']} blocks, and its configuration says that it has "
            f"{depth}: correct the one that is wrong"
        )
    kinds = {read.config.get("model_type"), told.get("model_type")} - {None}
    if family.model_types and kinds and not kinds & set(family.model_types):
        other = told.get("model_type") or read.config["model_type"]
        recipe = replace(recipe, assumed=(f"that a {other!r} with its weights computes as it", *recipe.assumed))
    heads, width = recipe.keywords.get("num_heads"), recipe.keywords.get("embed_dim")
    if heads is not None and width is not None and (heads < 1 or width % heads):
        raise InputError(f"{read.name}: {heads} heads cannot share a stream of width {width}: pass another n_heads=")
    for kind, listed in (("assumed", recipe.assumed), ("left out", recipe.unused)):
        if listed:
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            warnings.warn(f"{read.name} is read as {family.name}; {kind}: {', '.join(listed[:3])}{more}", stacklevel=5)
    recipe = replace(recipe, pretrained_cfg={**recipe.pretrained_cfg, "architecture": family.name})
    under = f" (under {wrapper!r})" if wrapper else ""
    return recipe, f"{family.name}, {read.name}{under}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
