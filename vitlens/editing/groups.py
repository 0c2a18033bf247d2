"""Groups of pictures: given as names, or proposed from what the context of the object says alone."""

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
from vitlens.choose.tokens import select_tokens
from vitlens.data.masks import MaskInput
from vitlens.editing.labelled import LabelledPictures
from vitlens.errors import InputError, nearest
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource

GroupInput: TypeAlias = Sequence[str | int] | Tensor | np.ndarray | pd.Series
#: A group's mean has an interval only from this many pictures on.
LEAST_PICTURES = 2
#: From how many pictures on one can say what is usual for a class, and by how many standard deviations a class has to lead.
LEAST_TO_PROPOSE, CLEAR_LEAD = 10, 0.25


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


@leaves_state
@checked
def propose_groups(
    model: HookedViT,
    images: PictureSource,
    labels: Sequence[int] | Tensor | np.ndarray | None = None,
    *,
    masks: MaskInput,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> list[str]:
    """Proposes a group for each picture from what its context says without the object.

    The object's patches are removed, and the model runs on the others. Whatever is in them, some classes get larger logits
    than others from such runs, so each class's logit is standardised over the pictures: (logit − mean) / standard deviation.
    The class that stands out most is the context's, if it leads the next one by a quarter of a standard deviation.

    - "agreeing": the context's class is the picture's label.
    - "conflicting": it is another class.
    - "neutral": no class leads, which also happens where similar classes share a context.

    A proposal is a guess to be looked at: what remains of the object at its rim also speaks, and where pictures of a class
    nearly all have one context, the others' is what stands out least. Of the demo's 100 pictures, whose contexts are known,
    90 are agreeing or conflicting by this rule, and 93 % of these are right.

    Args:
        labels: the class of each picture; None for a picture set, which has them.
        masks: where the object is, one mask for each picture.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        "agreeing", "conflicting" or "neutral" for each picture.

    Raises:
        InputError: fewer than ten pictures, labels or masks that do not fit, a model that predicts no classes.

    Source: Methods B2 for the removal of tokens.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> groups = vitlens.editing.propose_groups(model, images, labels, masks=masks)
        >>> groups[:4]  # pictures on their own class's texture and on another's, in turn
        ['agreeing', 'conflicting', 'agreeing', 'conflicting']
    """
    model.require_prediction()
    pictures = LabelledPictures(model, images, labels, batch_size)
    if len(pictures) < LEAST_TO_PROPOSE:
        raise InputError(
            f"groups are proposed from {LEAST_TO_PROPOSE} pictures on, for only many pictures show what is usual for a "
            f"class: there are {len(pictures)}"
        )
    found: list[tuple[Tensor, Tensor]] = []
    gone: Tensor | None = None
    for places, batch, _ in pictures.batches("groups", progress):
        with torch.no_grad():
            grid = model.embed.grid(*batch.shape[-2:])
            if gone is None:
                about: dict[str, Any] = {"masks": masks, "grid": grid, "some_may_be_empty": True}
                gone = select_tokens(model, "object", len(pictures), **about)[:, model.cfg.n_prefix_tokens :]
            run = model.forward_kept(model(batch, stop_at_layer=0), ~gone[places], grid)
        found.append((places, run.logits.double().cpu()))
    places, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    standard = (logits - logits.mean(dim=0)) / logits.std(dim=0).clamp(min=torch.finfo(logits.dtype).tiny)
    first, second = standard.topk(2, dim=1).values.unbind(dim=1)
    of_label = standard.argmax(dim=1) == pictures.labels[places]
    said = np.where(of_label, "agreeing", "conflicting").astype(object)
    said[(first - second < CLEAR_LEAD).numpy()] = "neutral"
    proposed = ["neutral"] * len(pictures)
    for place, name in zip(places.tolist(), said, strict=True):
        proposed[place] = name
    return proposed


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
