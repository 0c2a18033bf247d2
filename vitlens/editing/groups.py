"""Groups of pictures, given as a name or a number for each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vitlens.arguments import checked, is_whole, items, short
from vitlens.errors import InputError, nearest

GroupInput: TypeAlias = Sequence[Any] | Tensor | np.ndarray | pd.Series
#: A group's mean has an interval only from this many pictures on.
LEAST_PICTURES = 2


@dataclass(frozen=True)
class Groups:
    """The group of each picture: `names`, in the order in which they first appear, and the place `of_image` among them."""

    names: list[str]
    of_image: Int[Tensor, "image"]

    def __len__(self) -> int:
        """How many pictures are in groups."""
        return len(self.of_image)

    def where(self, name: str) -> Bool[Tensor, "image"]:
        """Which pictures are in this group.

        Raises:
            InputError: there is no such group.
        """
        if name not in self.names:
            raise InputError(f"no group is called {name!r}; the nearest names are {nearest(str(name), self.names)}")
        return self.of_image == self.names.index(name)

    def counts(self) -> dict[str, int]:
        """How many pictures each group has."""
        return dict(zip(self.names, torch.bincount(self.of_image, minlength=len(self.names)).tolist(), strict=True))

    def require_intervals(self, names: Sequence[str] | None = None) -> None:
        """Raises InputError where one of these groups, by default any, has too few pictures to show how they vary."""
        for name, n in self.counts().items():
            if n < LEAST_PICTURES and (names is None or name in names):
                raise InputError(
                    f"the group {name!r} has a single picture, and an interval needs {LEAST_PICTURES}: give more of it, "
                    "or leave it out"
                )


@checked
def read_groups(groups: GroupInput | Groups, n_images: int) -> Groups:
    """Reads the group of each picture.

    Args:
        groups: names or whole numbers, one for each picture: a list, an array, a column of a table, or a tensor of numbers;
            or what this function returns.
        n_images: how many pictures there are.

    Raises:
        InputError: something else, another number of groups than of pictures, or a single group.

    Examples:
        >>> import vitlens
        >>> groups = vitlens.editing.read_groups(["agreeing", "conflicting", "agreeing"], 3)
        >>> groups.names, groups.of_image
        (['agreeing', 'conflicting'], tensor([0, 1, 0]))
        >>> groups.where("agreeing")
        tensor([ True, False,  True])
    """
    if isinstance(groups, Groups):
        names = [groups.names[place] for place in groups.of_image.tolist()]
    else:
        names = read_names(groups, "groups", "the group of each picture")
    if len(names) != n_images:
        raise InputError(f"{len(names)} groups were given for {n_images} pictures: give the group of each picture")
    order = list(Counter(names))
    if len(order) < 2:
        raise InputError(f"all pictures are in the group {order[0]!r}: at least two groups are compared")
    place = {name: i for i, name in enumerate(order)}
    return Groups(order, torch.tensor([place[name] for name in names]))


def read_names(given: Any, argument: str, meaning: str) -> list[str]:
    """A name or number for each picture, as names; `argument` and `meaning` are what errors call it.

    Raises:
        InputError: these are no names and no whole numbers.
    """
    row = given.to_numpy() if isinstance(given, pd.Series) else given
    is_row = isinstance(row, (list, tuple, range)) or (isinstance(row, (Tensor, np.ndarray)) and row.ndim == 1)
    found = items(row) if is_row else []
    if not found or not all(is_whole(item) or (isinstance(item, str) and item.strip()) for item in found):
        raise InputError(
            f"{argument} are {meaning}, a name or a whole number: a list, or a tensor [image] of whole numbers, not "
            f"{short(given)}"
        )
    return [item if isinstance(item, str) else str(int(item)) for item in found]
