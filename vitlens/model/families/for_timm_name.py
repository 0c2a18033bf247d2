"""A file of another library, opened with the name of the timm model that it is weights of."""

import warnings
from pathlib import Path
from typing import Any

from vitlens.errors import InputError
from vitlens.model.checkpoints.timm_models import build_without_values
from vitlens.model.families.door import recipe_of
from vitlens.model.families.recipe import Recipe
from vitlens.model.families.recognition import is_of_another_library
from vitlens.model.families.sources import read_source


def recipe_for_name(
    name: str, path: str | Path, timm_kwargs: dict[str, Any], use_ema: bool
) -> tuple[Recipe, str] | None:
    """The recipe of a file whose names are another library's, with the heads of that timm model; None for other files.

    Raises:
        InputError: another depth or width than timm's model has; keywords of timm, which goes by its own names.
    """
    read = read_source(path)
    if not is_of_another_library(read):
        return None
    if timm_kwargs:
        raise InputError(
            f"{path} has the names of another library, and is opened as it is: leave {', '.join(timm_kwargs)} out"
        )
    named = build_without_values(name, {})
    attention = getattr(named.blocks[0], "attn", None)
    recipe, said = recipe_of(read, getattr(attention, "num_heads", None), use_ema=use_ema)
    sizes = recipe.keywords["depth"], recipe.keywords["embed_dim"]
    if sizes != (len(named.blocks), named.embed_dim):
        raise InputError(
            f"{path} has {sizes[0]} blocks of width {sizes[1]}, and {name} has {len(named.blocks)} of width "
            f"{named.embed_dim}: open it with HookedViT.from_pretrained({str(path)!r}), or by the name that fits"
        )
    warnings.warn(
        f"{path} is read as {said}: what its names do not tell (eps of norms, activation, preprocessing) is that "
        f"library's, and not that of {name}",
        stacklevel=4,
    )
    return recipe, said
