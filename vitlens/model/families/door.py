"""The door for models of other libraries: finds out what a source is, and builds timm's module of it."""

import warnings
from typing import Any

from vitlens.model.families.family import without_prefix
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.registry import recognise
from vitlens.model.families.sources import read_source


def read_recipe(source: Any, n_heads: int | None = None) -> tuple[Recipe, str]:
    """The recipe of a model of another library, and its kind and name in words.

    Raises:
        InputError: a source that cannot be read, of no known family, or that contradicts itself.
    """
    read = read_source(source)
    config = {**read.config, **({} if n_heads is None else {"num_attention_heads": n_heads})}
    family, prefix = recognise(read.state, config, read.name)
    recipe = family.read(without_prefix(read.state, prefix), config)
    for kind, listed in (("assumed", recipe.assumed), ("left out", recipe.unused)):
        if listed:
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            warnings.warn(f"{read.name} is read as {family.name}; {kind}: {', '.join(listed[:3])}{more}", stacklevel=4)
    return recipe, f"{family.name}, {read.name}"
