"""Steering by dose: the logits of a picture while one feature has 0, 1, 2, … times the activation that it has."""

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.choose.tokens import TokenSet
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace, suffix_of
from vitlens.features.splice import SplicedDictionary
from vitlens.model.hooked_vit import HookedViT

#: Runs that share a forward: a dictionary's activations are large.
RUNS_AT_ONCE = 8


@torch.no_grad()
def logits_at_doses(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    sae: SparseAutoencoder,
    ends: tuple[HookPlace, HookPlace],
    tokens: TokenSet,
    features: Sequence[int],
    doses: Sequence[float],
) -> Float[Tensor, "feature dose class"]:
    """One feature at a time is multiplied at all tokens; what the dictionary does not reconstruct stays as it is.

    A dose of 0 removes the feature, and 1 changes nothing. What comes before the dictionary runs once.
    """
    pairs = list(product(features, doses))
    n_rows = min(RUNS_AT_ONCE, len(pairs))
    run = suffix_of(model, image.expand(n_rows, -1, -1, -1), ends)
    found = []
    for start in range(0, len(pairs), n_rows):
        some = pairs[start : start + n_rows]

        def multiply(codes: Tensor, some: list[tuple[int, float]] = some) -> Tensor:
            edited = codes.clone()
            for row, (feature, dose) in enumerate(some):
                edited[row, ..., feature] *= dose
            return edited

        # What the last forward has too many of stays unedited.
        spliced = SplicedDictionary(model, sae, *ends, tokens, True, multiply, False)
        found.append(run(spliced.hooks())[: len(some)])
    return torch.cat(found).unflatten(0, (len(features), len(doses)))
