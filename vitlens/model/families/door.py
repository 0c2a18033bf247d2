"""The door for models of other libraries: finds out what a source is, and builds timm's module of it."""

import warnings
from dataclasses import replace
from typing import Any

from timm.layers import to_2tuple

from vitlens.errors import InputError
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
    told = {**(read.config.get("vision_config") or {}), **read.config}.get("num_attention_heads")
    if n_heads is not None and told not in (None, n_heads):
        raise InputError(f"{read.name} says that it has {told} heads: leave n_heads={n_heads} out")
    size = None if img_size is None else to_2tuple(img_size)
    if size is not None and (len(size) != 2 or not all(map(_is_count, size))):
        raise InputError(f"img_size is one number, or height and width, not {img_size!r}")
    family, state, wrapper = recognise(read, use_ema)
    given = {"num_attention_heads": n_heads, "img_size": size}
    recipe = family.read(state, {**read.config, **{name: value for name, value in given.items() if value is not None}})
    recipe = replace(recipe, pretrained_cfg={"architecture": family.name, **recipe.pretrained_cfg})
    if size is not None and tuple(recipe.keywords["img_size"]) != size:
        own = " × ".join(map(str, recipe.keywords["img_size"]))
        raise InputError(f"{family.name} is opened at the size of its own pictures, {own}: leave img_size= out")
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
