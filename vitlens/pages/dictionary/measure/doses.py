"""Steering by dose: the logits of a picture while one feature has 0, 1, 2, … times the activation that it has."""

from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from vitlens.features.places import suffix_of
from vitlens.features.splice import with_sae
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.dictionary.measure.place import DictionaryInPlace

#: Runs that share a forward: a dictionary's activations are large.
RUNS_AT_ONCE = 8


@torch.no_grad()
def logits_at_doses(
    model: HookedViT,
    image: Float[Tensor, "1 channels height width"],
    place: DictionaryInPlace,
    features: Sequence[int],
    doses: Sequence[float],
) -> Float[Tensor, "feature dose class"]:
    """One feature at a time is multiplied at all tokens; what the dictionary does not reconstruct stays as it is.

    A dose of 0 removes the feature, and 1 changes nothing. What comes before the dictionary's block runs once.
    """
    pairs = list(product(features, doses))
    n_rows = min(RUNS_AT_ONCE, len(pairs))
    run = suffix_of(model, image.expand(n_rows, -1, -1, -1), [place.source, place.target])
    found = []
    for start in range(0, len(pairs), n_rows):
        some = pairs[start : start + n_rows]

        def multiply(codes: Tensor, some: list[tuple[int, float]] = some) -> Tensor:
            edited = codes.clone()
            for row, (feature, dose) in enumerate(some):
                edited[row, ..., feature] *= dose
            return edited

        with with_sae(
            model, place.hook, place.sae, hook_out=place.hook_out, error_term=True, tokens=place.tokens, edit=multiply
        ):
            # Rows of the last forward that are too many run unedited.
            found.append(run([])[: len(some)])
    return torch.cat(found).unflatten(0, (len(features), len(doses)))
