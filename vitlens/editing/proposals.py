"""The edits that a repair tries: directions of what the classifier reads, and the parts that carry the shortcut."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from vitlens.editing.changes import Directions
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
MOST_PARTS_TRIED, N_DOSES = 8, 2
#: How many directions are tried where pictures are too few to tell how many there are.
COUNTS_OF_FEW = (4, 2, 1)
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
    strongest = shortcut.strongest(MOST_PARTS_TRIED)
    for n in _up_to(len(strongest)):
        made = edit(model, strongest[:n], "token_mean", images=some.images, **about)
        tried |= {f"mean of {', '.join(made.parts)}, dose {dose:g}": made.at(dose) for dose in sorted(doses)[-N_DOSES:]}
    if not tried:
        raise InputError(
            "no part differs between the groups more than by chance, and no class has pictures of two groups, so there is "
            "nothing to edit: give more pictures, or edits of your own (edits=)"
        )
    return shortcut, tried


def _of_directions(
    model: HookedViT, pictures: SomePictures, doses: Sequence[float], about: dict[str, Any]
) -> dict[str, Edit]:
    found = None if model.is_distilled else _find_directions(model, pictures, about)
    if found is None:
        return {}
    return {
        f"{n} direction{'s' if n > 1 else ''}, dose {dose:g}": edit(
            model, "classifier", "direction", directions=found.first(n), dose=dose
        )
        for n in _up_to(len(found))
        for dose in doses
    }


def _find_directions(model: HookedViT, pictures: SomePictures, about: dict[str, Any]) -> Directions | None:
    """Those beyond chance; of too few pictures to tell chance some with much shrinkage, for the held-out ones to judge."""
    few: list[dict[str, Any]] = [{"k": k, "alpha": 1.0} for k in COUNTS_OF_FEW]
    for given in ({}, *few):
        with suppress(InputError):
            return group_directions(model, *pictures, **(given | about))
    return None


def _up_to(n: int) -> list[int]:
    """The sizes below n, and n itself."""
    return sorted({size for size in (*SIZES, n) if 0 < size <= n})
