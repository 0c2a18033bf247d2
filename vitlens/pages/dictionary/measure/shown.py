"""Pictures that the page shows whole: all that is active at each of their tokens, and what it is worth to the answer."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from vitlens.features.attribution import feature_attribution
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.dictionary.measure.one_pass import ShownPicture
from vitlens.pages.dictionary.measure.place import DictionaryInPlace
from vitlens.pages.explorer.measure.quantise import as_numpy

#: Activations of all shown pictures that a page holds.
MOST_ACTIVATIONS = 600_000


def active_tensors(shown: Sequence[ShownPicture], n_tokens: int) -> tuple[dict[str, np.ndarray], int | None]:
    """active_ends [picture · token], active_features and active_values, token by token, the strongest of each first; and
    how many of a token's features are kept, where they are too many for a page."""
    if not shown:
        return {}, None
    total = sum(len(picture.values) for picture in shown)
    most = None if total <= MOST_ACTIVATIONS else max(1, MOST_ACTIVATIONS // (len(shown) * n_tokens))
    counts, features, values = [], [], []
    for picture in shown:
        # By token, and within a token by value: the later sort is stable.
        order = picture.values.argsort(descending=True, stable=True)
        order = order[picture.tokens[order].argsort(stable=True)]
        tokens = picture.tokens[order]
        count = torch.bincount(tokens, minlength=n_tokens)
        if most is not None:
            place = torch.arange(len(tokens)) - (count.cumsum(0) - count)[tokens]
            order, count = order[place < most], count.clamp(max=most)
        counts.append(count)
        features.append(picture.features[order])
        values.append(picture.values[order])
    return {
        "active_ends": torch.cat(counts).cumsum(0).numpy().astype(np.int32),
        "active_features": torch.cat(features).numpy().astype(np.int32),
        "active_values": as_numpy(torch.cat(values)),
    }, most


def attribution_of_shown(
    model: HookedViT, shown: Sequence[ShownPicture], place: DictionaryInPlace
) -> tuple[Float[np.ndarray, "picture feature"], Int[np.ndarray, "picture"]]:
    """What each feature is worth to the logit of each picture's predicted class, by its gradient, and these classes."""
    shares = feature_attribution(
        model,
        torch.cat([picture.image for picture in shown]),
        sae=place.sae,
        hook=place.hook,
        hook_out=place.hook_out,
        tokens=place.tokens,
        progress=False,
    )
    assert shares.classes is not None
    return as_numpy(shares.values[:, 0]), shares.classes[:, 0].cpu().numpy()
