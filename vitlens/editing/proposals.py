"""The edits that a repair tries: directions of what the classifier reads, and the parts that carry the shortcut."""

from collections.abc import Sequence
from typing import Any

from vitlens.editing.directions import group_directions
from vitlens.editing.edits import Edit, edit
from vitlens.editing.search.shortcut import find_shortcut
from vitlens.editing.search.shortcut_result import Shortcut
from vitlens.editing.split import SomePictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT

#: How many directions, and how many of the strongest parts, are tried.
SIZES = (1, 2, 4, 8, 16)
#: Each number of parts and each dose costs a run of every picture; directions of what the classifier reads cost none.
MOST_PARTS = 8
#: Parts are looked for in at most so many pictures: each costs a run of its own.
N_FOR_PARTS = 512


def propose_edits(
    model: HookedViT, pictures: SomePictures, doses: Sequence[float], about: dict[str, Any]
) -> tuple[Shortcut | None, dict[str, Edit]]:
    """What carries the difference between the groups, and edits of it, by name.

    Raises:
        InputError: the groups differ in nothing.
    """
    some = pictures.some(N_FOR_PARTS)
    shortcut = find_shortcut(model, *some, clusters=some.clusters, **about)
    tried = _of_directions(model, pictures, doses, about)
    strongest = shortcut.strongest(MOST_PARTS)
    for n in _up_to(len(strongest)):
        made = edit(model, strongest[:n], "token_mean", images=some.images, **about)
        tried |= {f"mean of {', '.join(made.parts)}, dose {dose:g}": made.at(dose) for dose in doses}
    if not tried:
        raise InputError(
            "the groups differ in no direction and no part more than by chance, so there is nothing to edit: give more "
            "pictures, or edits of your own (edits=)"
        )
    return shortcut, tried


def _of_directions(
    model: HookedViT, pictures: SomePictures, doses: Sequence[float], about: dict[str, Any]
) -> dict[str, Edit]:
    if model.is_distilled:
        return {}
    try:
        found = group_directions(model, *pictures, **about)
    except InputError:
        # Groups may differ in parts and in no direction that the classifier reads.
        return {}
    return {
        f"{n} direction{'s' if n > 1 else ''}, dose {dose:g}": edit(
            model, "classifier", "direction", directions=found.first(n), dose=dose
        )
        for n in _up_to(len(found))
        for dose in doses
    }


def _up_to(n: int) -> list[int]:
    """The sizes below n, and n itself."""
    return sorted({size for size in (*SIZES, n) if 0 < size <= n})
