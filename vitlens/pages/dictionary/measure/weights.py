"""What a dictionary's weights say of each feature: the features nearest to it, and the classes that it raises and lowers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.places import HookPlace
from vitlens.features.top_examples import promoted_classes
from vitlens.model.hooked_vit import HookedViT

#: Features and classes that a card names.
N_NEAREST, N_CLASSES = 6, 5
#: Features that are compared with all others at once.
ROWS_AT_ONCE = 512


def nearest_directions(sae: SparseAutoencoder) -> tuple[Int[Tensor, "feature near"], Float[Tensor, "feature near"]]:
    """The features whose decoder directions are most alike, and the cosines; a feature is not its own neighbour."""
    directions = F.normalize(sae.W_dec.float(), dim=1)
    k = min(N_NEAREST, len(directions) - 1)
    found = []
    for rows in torch.arange(len(directions), device=directions.device).split(ROWS_AT_ONCE):
        cosines = directions[rows] @ directions.T
        cosines[torch.arange(len(rows)), rows] = -2
        found.append(cosines.topk(k, dim=1))
    return torch.cat([each.indices for each in found]).cpu(), torch.cat([each.values for each in found]).cpu()


def class_effects(
    model: HookedViT, target: HookPlace, sae: SparseAutoencoder
) -> tuple[Int[Tensor, "feature place"], Float[Tensor, "feature place"]]:
    """The classes that each feature raises most, strongest first, then those that it lowers most, weakest first.

    Values are those of `TopPatches.promoted`. Empty where that is empty.
    """
    found = []
    for rows in torch.arange(sae.d_sae).split(ROWS_AT_ONCE):
        promoted = promoted_classes(model, target, sae, rows.tolist()).float()
        n = min(N_CLASSES, promoted.shape[1] // 2)
        raised, lowered = promoted.topk(n, dim=1), promoted.topk(n, dim=1, largest=False)
        found.append(
            [
                torch.cat([raised.indices, lowered.indices.flip(1)], dim=1),
                torch.cat([raised.values, lowered.values.flip(1)], dim=1),
            ]
        )
    indices, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return indices, values
