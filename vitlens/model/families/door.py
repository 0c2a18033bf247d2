"""The door for models of other libraries: finds out what a source is, and builds timm's module of it."""

import warnings
from typing import Any

from timm.layers import to_2tuple

from vitlens.errors import InputError
from vitlens.model.families.family import without_prefix
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.registry import recognise
from vitlens.model.families.sources import read_source


def read_recipe(
    source: Any, n_heads: int | None = None, img_size: int | tuple[int, int] | None = None
) -> tuple[Recipe, str]:
    """The recipe of a model of another library, and its kind and name in words.

    Raises:
        InputError: a source that cannot be read, of no known family, or that contradicts itself.
    """
    read = read_source(source)
    size = None if img_size is None else to_2tuple(img_size)
    given = {"num_attention_heads": n_heads, "img_size": size}
    config = {**read.config, **{name: value for name, value in given.items() if value is not None}}
    family, prefix = recognise(read.state, config, read.name)
    recipe = family.read(without_prefix(read.state, prefix), config)
    if size is not None and tuple(recipe.keywords["img_size"]) != size:
        own = " × ".join(map(str, recipe.keywords["img_size"]))
        raise InputError(f"{family.name} is opened at the size of its own pictures, {own}: leave img_size= out")
    for kind, listed in (("assumed", recipe.assumed), ("left out", recipe.unused)):
        if listed:
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            warnings.warn(f"{read.name} is read as {family.name}; {kind}: {', '.join(listed[:3])}{more}", stacklevel=4)
    return recipe, f"{family.name}, {read.name}"
