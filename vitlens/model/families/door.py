"""The door for models of other libraries: finds out what a source is, and builds timm's module of it."""

import warnings
from typing import Any

from vitlens.errors import InputError
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.recognition import recognise
from vitlens.model.families.sources import OpenedSource, read_source


def read_recipe(source: Any, n_heads: int | None = None, use_ema: bool = True) -> tuple[Recipe, str]:
    """The recipe of a model of another library, and its kind and name in words.

    Raises:
        InputError: a source that cannot be read, of no known family, or that contradicts itself.
    """
    return recipe_of(read_source(source), n_heads, use_ema)


def recipe_of(read: OpenedSource, n_heads: int | None = None, use_ema: bool = True) -> tuple[Recipe, str]:
    """The same of a source that is read."""
    if n_heads is not None and (isinstance(n_heads, bool) or not isinstance(n_heads, int) or n_heads < 1):
        raise InputError(f"n_heads is a number of heads, not {n_heads!r}")
    family, state, wrapper = recognise(read, use_ema)
    config = {**read.config, **({} if n_heads is None else {"num_attention_heads": n_heads})}
    recipe = family.read(state, config)
    heads, width = recipe.keywords["num_heads"], recipe.keywords["embed_dim"]
    if heads < 1 or width % heads:
        raise InputError(f"{read.name}: {heads} heads cannot share a stream of width {width}: pass another n_heads=")
    for kind, listed in (("assumed", recipe.assumed), ("left out", recipe.unused)):
        if listed:
            more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
            warnings.warn(f"{read.name} is read as {family.name}; {kind}: {', '.join(listed[:3])}{more}", stacklevel=5)
    under = f" (under {wrapper!r})" if wrapper else ""
    return recipe, f"{family.name}, {read.name}{under}"
