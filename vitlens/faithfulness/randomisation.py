"""Cascading randomisation: compares maps with those of the same method on re-initialised weights (a sanity check)."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor

from vitlens.arguments import checked, require_seed
from vitlens.choose.classes import Classes, select_classes
from vitlens.choose.texts import takes_text
from vitlens.data.masks import Masks
from vitlens.data.pictures import Pictures
from vitlens.errors import InputError
from vitlens.faithfulness.curves import Bench
from vitlens.faithfulness.maps import MapScorer, ScoredMap
from vitlens.heatmaps.run import find_method, heatmap
from vitlens.heatmaps.shared.precision import careful, require_finite_logits
from vitlens.heatmaps.shared.rows import MOST_PICTURES, rows_at_once
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.progress_bar import ProgressBar
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.result import Result


def randomisation(bench: Bench, masks: Masks | None = None, *, seed: int = 0) -> MapScorer:
    """|Spearman's ρ| of the map with the same method's map after all weights are re-initialised, for the same class.

    Near 0 where the map depends on what was learnt, 1 where it does not; 0 where the other map is the same everywhere. NaN
    for a map that is itself the same everywhere, and so has no order, and for a map of which it is not known how it was
    made: pass a method's name or a `Heatmap`.

    Source: Adebayo et al. 2018 (Sanity Checks for Saliency Maps), section 3.1, all layers at once.
    """
    require_seed(seed)
    # Made only if a map can be made again, and once for all maps.
    fresh = functools.cache(lambda: bench.model.with_fresh_weights(seed))

    def score(scored: ScoredMap) -> Float[Tensor, "image"]:
        if scored.remake is None:
            return scored.importance.new_full((len(scored.importance),), torch.nan)
        return _likeness(scored.importance, scored.remake(fresh()))

    return score


@dataclass(frozen=True, repr=False)
class Randomisation(Result):
    """`values` [method, depth, image]: |Spearman's ρ| of each map with that of the trained model.

    The labels of the axis "depth" say which parts were re-initialised, from nothing to everything.
    """


@leaves_state
@checked
@takes_text("predicted")
def randomisation_test(
    model: HookedViT,
    images: Pictures,
    classes: Classes = None,
    *,
    methods: str | Sequence[str] = ("token_mask", "gradient_rollout", "attention_rollout"),
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> Randomisation:
    """Cascading randomisation: how similar maps stay to the trained model's while its weights are re-initialised.

    First the classifier (with the final norm and the pool), then also the last block, the one before …, at last the
    embedding. A method whose maps stay similar does not show what the model learnt.

    Args:
        classes: one per picture, kept throughout; by default what the trained model predicts.
        methods: names of heatmap methods.
        seed: of the fresh weights.
        batch_size: as of `heatmap`.
        progress: show a bar; by default on a terminal.

    Returns:
        Randomisation with axes method, depth, image.

    Raises:
        InputError: an unknown method or none, more than one class a picture, a model that cannot be built again; what
            `heatmap` refuses.

    Source: Adebayo et al. 2018 (Sanity Checks for Saliency Maps), section 3.1.

    Examples:
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> test = vitlens.faithfulness.randomisation_test(model, images[:1], methods="gradient_rollout")
        >>> test.axes["depth"][:3]
        ['nothing', 'classifier', 'blocks 5 and later']
        >>> untouched, *_, everything = test.values[0, :, 0].tolist()
        >>> print(f"{untouched:.1f}, and lower with all weights re-initialised: {everything < 0.9}")
        1.0, and lower with all weights re-initialised: True
    """
    methods = [find_method(name).name for name in ([methods] if isinstance(methods, str) else methods)]
    if not methods:
        raise InputError("name at least one heatmap method")
    require_seed(seed)
    pictures = model.as_images(images)
    with careful(model, pictures) as (able, copies):
        size = rows_at_once(able, copies, batch_size, gradients=False, most=MOST_PICTURES)
        logits = torch.cat([able(part) for part in copies.split(size)])
        require_finite_logits(model, logits)
    selection = select_classes(model, classes, len(pictures), lambda: logits)
    if selection.indices.shape[1] != 1:
        raise InputError(f"a map is of one class per picture, not {selection.indices.shape[1]}")
    fresh = model.with_fresh_weights(seed)
    stages = _stages(model)
    values = torch.empty(len(methods), len(stages), len(pictures), dtype=torch.float64)
    trained: dict[str, Tensor] = {}
    n_maps = len(methods) * len(stages)
    with ProgressBar(n_maps, "randomisation test", "map", progress, n_maps) as bar:
        for depth, parts in enumerate(stages.values()):
            mixed = _mixed(model, fresh, parts)
            for row, name in enumerate(methods):
                found = heatmap(
                    mixed,
                    pictures,
                    selection.indices,
                    method=name,
                    batch_size=batch_size,
                    warn=False,
                    progress=False,
                ).patches()
                values[row, depth] = _likeness(trained.setdefault(name, found), found)
            # Methods differ in cost: the estimate is of all of them.
            bar.update(len(methods))
    return Randomisation(
        values,
        {"method": methods, "depth": list(stages), "image": list(range(len(pictures)))},
        "rank correlation",
        classes=selection.indices,
        class_names=model.class_names,
        pixels=small_pictures(model, pictures),
        settings={"model": model.cfg.model_name, "seed": seed},
    )


def rank_correlation(
    one: Float[Tensor, "image patch"], other: Float[Tensor, "image patch"]
) -> Float[Tensor, "image"]:  # fmt: skip
    """Spearman's ρ of each picture's two maps, ties sharing their mean rank; 0 where a map is the same everywhere."""
    ranks = [torch.from_numpy(rankdata(x.double().cpu().numpy(), axis=1)) for x in (one, other)]
    a, b = (x - x.mean(dim=1, keepdim=True) for x in ranks)
    size = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return ((a * b).sum(dim=1) / size.where(size > 0, 1.0)).to(one.device)


def _likeness(
    trained: Float[Tensor, "image patch"], other: Float[Tensor, "image patch"]
) -> Float[Tensor, "image"]:  # fmt: skip
    """|ρ|; NaN where the trained model's map is the same everywhere, so that it has no order to be lost."""
    even = (trained == trained[:, :1]).all(dim=1)
    return rank_correlation(trained, other).abs().masked_fill(even, torch.nan)


def _stages(model: HookedViT) -> dict[str, range]:
    """Which parts are re-initialised at each depth, numbered as in `_part_of`."""
    n = model.cfg.n_layers
    blocks = {f"blocks {block} and later": range(block, n + 1) for block in reversed(range(n))}
    return {"nothing": range(0), "classifier": range(n, n + 1), **blocks, "everything": range(-1, n + 1)}


def _part_of(name: str, n_layers: int) -> int:
    """The block of a parameter; n_layers for what follows the last block (norm, pool, classifier), −1 for the embedding."""
    first, *rest = name.split(".")
    if first == "blocks":
        return int(rest[0])
    return -1 if first in ("embed", "ln_pre") else n_layers


def _mixed(model: HookedViT, fresh: HookedViT, parts: range) -> HookedViT:
    """A copy of the model in which these parts have the fresh weights."""
    mixed = copy.deepcopy(model)
    drawn = {name: value for name, value in fresh.state_dict().items() if _part_of(name, model.cfg.n_layers) in parts}
    mixed.load_state_dict(drawn, strict=False)
    return mixed
