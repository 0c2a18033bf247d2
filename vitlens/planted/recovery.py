"""Scores of a dictionary on a planted model: are its features those that were planted?"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder, Transcoder
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
    #: AUROC of the nearest feature's activity: is it higher where the planted feature is on than elsewhere? 0.5 by chance.
    auroc: float
    #: Of the patches where the nearest feature is active, the share where the planted one is on.
    precision: float
    #: Of the patches where the planted feature is on, the share where the nearest one is active.
    recall: float
    #: AUROC of the feature whose activity correlates most with the planted one, whatever its direction. It says nothing
    #: about the model: the pictures are sparse themselves, and random weights keep what they hold.
    auroc_any: float
    cosines: Float[Tensor, "feature"] = field(repr=False)
    nearest: Int[Tensor, "feature"] = field(repr=False)
    aurocs: Float[Tensor, "feature"] = field(repr=False)


@checked
def feature_recovery(
    vit: PlantedFeatures, sae: SparseAutoencoder | CrossLayerTranscoder, *, n_images: int = 64, seed: int = 1
) -> FeatureRecovery:
    """Compares a dictionary with the planted features: directions by their cosine, activity on the patches of new pictures.

    A transcoder's directions are compared with what the MLP writes for the features. Of a cross-layer transcoder the
    features of its first block count; their cosine is the mean over the blocks into which they write.

    Args:
        vit: the planted model. To score a dictionary of a model with random weights, give `dataclasses.replace(vit,
            model=random_model)`: the truth stays.
        sae: a dictionary of the stream at `vit.hook`, a transcoder of an MLP in `vit.written`, or a cross-layer transcoder
            of all of them. It knows its hook points.
        n_images: how many pictures are drawn.
        seed: of the pictures; another than that of the training pictures.

    Returns:
        FeatureRecovery: `.cosine`, `.found`, `.auroc` and others.

    Raises:
        InputError: the dictionary does not know its hook points, or nothing is planted at those that it predicts.

    Source: Sharkey et al. 2022 (mean max cosine similarity).

    Examples:
        >>> import vitlens
        >>> from vitlens.planted import planted_features
        >>> vit = planted_features(12)
        >>> truth = vit.directions.float()
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(truth.T, None, truth, None, hook=vit.hook)
        >>> round(feature_recovery(vit, sae).cosine, 3)
        1.0
    """
    hook, decoded = directions_of(sae)
    truth = true_directions(vit, decoded)
    pictures = vit.pictures(n_images, seed)
    with torch.no_grad():
        _, cache = vit.model.run_with_cache(pictures.images, names_filter=hook)
        # The class token comes first, and no feature is on there.
        x = cache[hook][:, 1:].flatten(0, 1)
        activity = (sae.encode_block(0, x) if isinstance(sae, CrossLayerTranscoder) else sae.encode(x)).double()
    is_on = (pictures.strengths[:, 1:] > 0).flatten(0, 1)
    table = torch.stack([cosine_table(truth[place], decoded[place]) for place in decoded]).mean(dim=0)
    cosines, nearest = table.max(dim=1)
    matched = table[linear_sum_assignment(-table)]
    scores = aurocs(activity[:, nearest], is_on)
    is_active = activity[:, nearest] > 0
    right = (is_active & is_on).sum(dim=0)
    return FeatureRecovery(
        cosine=float(cosines.mean()),
        found=float((cosines > FOUND).double().mean()),
        one_to_one=float(matched.sum()) / len(table),
        auroc=float(scores.mean()),
        precision=float((right / is_active.sum(dim=0).clamp(min=1)).mean()),
        recall=float((right / is_on.sum(dim=0).clamp(min=1)).mean()),
        auroc_any=float(aurocs(activity[:, most_alike(activity, is_on)], is_on).mean()),
        cosines=cosines,
        nearest=nearest,
        aurocs=scores,
    )


def directions_of(
    sae: SparseAutoencoder | CrossLayerTranscoder,
) -> tuple[str, dict[str, Float[Tensor, "latent d"]]]:
    """Where a dictionary reads, and its directions at each place that it predicts.

    Raises:
        InputError: it does not know its hook points.
    """
    if isinstance(sae, CrossLayerTranscoder):
        return sae.hooks[0], dict(zip(sae.hooks_out, sae.W_dec[0], strict=True))
    hook_out = sae.hook_out if isinstance(sae, Transcoder) else sae.hook
    if sae.hook is None or hook_out is None:
        raise InputError(
            "this dictionary does not know where it reads, or what it predicts: set its hook (and hook_out)"
        )
    return sae.hook, {hook_out: sae.W_dec}


def true_directions(vit: PlantedFeatures, hooks: Iterable[str]) -> dict[str, Float[Tensor, "feature d"]]:
    """What a dictionary should decode to at these hook points.

    Raises:
        InputError: nothing is planted at one of them.
    """
    known = {f"blocks.{block}.hook_mlp_out": directions for block, directions in vit.written.items()}
    known = {vit.hook: vit.directions} | known
    for hook in hooks:
        if hook not in known:
            raise InputError(
                f"features are planted at {', '.join(known)}, not at {hook}, which this dictionary predicts"
            )
    return known


def cosine_table(
    truth: Float[Tensor, "feature d"], found: Float[Tensor, "latent d"]
) -> Float[Tensor, "feature latent"]:
    """The cosine of every planted direction with every one of the dictionary."""
    return F.normalize(truth, dim=1) @ F.normalize(found.detach().to(truth), dim=1).T


def most_alike(activity: Float[Tensor, "row latent"], is_on: Bool[Tensor, "row feature"]) -> Int[Tensor, "feature"]:
    """For each planted feature the feature of the dictionary with the highest correlation."""
    ours, theirs = (F.normalize(x.double() - x.double().mean(dim=0), dim=0) for x in (is_on, activity))
    return (ours.T @ theirs).argmax(dim=1)


def aurocs(scores: Float[Tensor, "row feature"], is_on: Bool[Tensor, "row feature"]) -> Float[Tensor, "feature"]:
    """How often a row where the feature is on has a higher score than another, ties counted as half; column by column.

    0.5 where the feature is always on, or never.
    """
    ranks = torch.from_numpy(rankdata(scores.numpy(), axis=0))
    n_on = is_on.sum(dim=0).double()
    n_off = len(scores) - n_on
    above = (ranks * is_on).sum(dim=0) - n_on * (n_on + 1) / 2
    return torch.where(n_on * n_off > 0, above / (n_on * n_off).clamp(min=1), 0.5)
