"""Proposes groups of pictures from what the context of the object says alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.tokens import select_tokens
from vitlens.data.masks import MaskInput
from vitlens.editing.labelled import LabelledPictures
from vitlens.errors import InputError
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureSource

#: From how many pictures on one can say what is usual for a class, and by how many standard deviations a class has to lead.
LEAST_TO_PROPOSE, CLEAR_LEAD = 10, 0.25


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
