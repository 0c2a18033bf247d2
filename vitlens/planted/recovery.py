"""Scores of a dictionary on a planted model: are its features those that were planted?"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.planted.sparse_code import PlantedFeatures

# A direction counts as found from this cosine on.
FOUND = 0.9


@dataclass(frozen=True)
class FeatureRecovery:
    """How well a dictionary recovers planted features. All numbers are means over them, and 1 is the best.

    `nearest` is the feature of the dictionary whose direction has the largest cosine with the planted one, `cosines` that
    cosine, `aurocs` the AUROC of its activity: one for each planted feature.
    """

    #: Cosine with the nearest direction of the dictionary.
    cosine: float
    #: Share of planted features whose cosine is above 0.9.
    found: float
    #: Cosine where each feature of the dictionary is matched with one planted feature at most, so that the sum is largest.
    one_to_one: float
    #: AUROC of the nearest feature's activity: does it tell patches where the planted feature is on from the others? 0.5 by
    #: chance.
    auroc: float
    #: Of the patches where the nearest feature is active, the share where the planted one is on.
    precision: float
    #: Of the patches where the planted feature is on, the share where the nearest one is active.
    recall: float
    #: AUROC of the feature whose activity correlates most with the planted one, whatever its direction. It says nothing of the
    #: model: the pictures are sparse themselves, and a model of random weights keeps what they hold.
    auroc_any: float
    cosines: Float[Tensor, "feature"]
    nearest: Int[Tensor, "feature"]
    aurocs: Float[Tensor, "feature"]


def feature_recovery(
    vit: PlantedFeatures, sae: SparseAutoencoder, *, n_images: int = 64, seed: int = 1
) -> FeatureRecovery:
    """Compares a dictionary with the planted features: directions by their cosine, activity on the patches of new pictures.

    The directions of a transcoder are compared with what the MLP writes for the features.

    Args:
        vit: the planted model. To score a dictionary of a model with random weights, give `dataclasses.replace(vit,
            model=random_model)`: the truth stays.
        sae: a dictionary of the model's stream, or a transcoder of an MLP, with its hook points.
        n_images: how many pictures are drawn.
        seed: of the pictures; another than that of the training pictures.

    Raises:
        InputError: the dictionary does not say where it reads; it reconstructs another place than the stream at `vit.hook` or
            an MLP with planted features.
    """
    if sae.hook is None:
        raise InputError("the dictionary does not say where it reads: set its hook")
    truth = true_directions(vit, getattr(sae, "hook_out", None) or sae.hook)
    pictures = vit.pictures(n_images, seed)
    with torch.no_grad():
        _, cache = vit.model.run_with_cache(pictures.images, names_filter=sae.hook)
        # The class token comes first, and no feature is on there.
        x = cache[sae.hook][:, 1:].flatten(0, 1)
        activity = sae.encode(x).double()
    is_on = (pictures.strengths[:, 1:] > 0).flatten(0, 1)
    table = F.normalize(truth, dim=1) @ F.normalize(sae.W_dec.detach().double(), dim=1).T
    cosines, nearest = table.max(dim=1)
    matched = table[linear_sum_assignment(-table)]
    found = aurocs(activity[:, nearest], is_on)
    is_active = activity[:, nearest] > 0
    right = (is_active & is_on).sum(dim=0)
    return FeatureRecovery(
        cosine=float(cosines.mean()),
        found=float((cosines > FOUND).double().mean()),
        one_to_one=float(matched.sum()) / len(truth),
        auroc=float(found.mean()),
        precision=float((right / is_active.sum(dim=0).clamp(min=1)).mean()),
        recall=float((right / is_on.sum(dim=0).clamp(min=1)).mean()),
        auroc_any=float(aurocs(activity[:, most_alike(activity, is_on)], is_on).mean()),
        cosines=cosines,
        nearest=nearest,
        aurocs=found,
    )


def true_directions(vit: PlantedFeatures, hook: str) -> Float[Tensor, "feature d"]:
    """What a dictionary of this hook point should decode to.

    Raises:
        InputError: nothing is known of it.
    """
    known = {vit.hook: vit.directions}
    known |= {f"blocks.{block}.hook_mlp_out": directions for block, directions in vit.written.items()}
    if hook not in known:
        raise InputError(f"features are planted at {', '.join(known)}, not at {hook}")
    return known[hook]


def most_alike(activity: Float[Tensor, "row latent"], is_on: Tensor) -> Int[Tensor, "feature"]:
    """For each planted feature the feature of the dictionary with the highest correlation."""
    ours, theirs = (F.normalize(x.double() - x.double().mean(dim=0), dim=0) for x in (is_on, activity))
    return (ours.T @ theirs).argmax(dim=1)


def aurocs(scores: Float[Tensor, "row feature"], is_on: Tensor) -> Float[Tensor, "feature"]:
    """Column by column, how often a row where the feature is on has the higher score, ties counted as half.

    0.5 where the feature is always on or never.
    """
    ranks = torch.from_numpy(rankdata(scores.numpy(), axis=0))
    n_on = is_on.sum(dim=0).double()
    n_off = len(scores) - n_on
    above = (ranks * is_on).sum(dim=0) - n_on * (n_on + 1) / 2
    return torch.where(n_on * n_off > 0, above / (n_on * n_off).clamp(min=1), 0.5)
