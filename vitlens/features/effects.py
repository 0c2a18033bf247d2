"""What removing single features does to the model's answers, measured picture by picture."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlens.arguments import checked
from vitlens.choose.classes import Classes, ClassSelection, select_classes
from vitlens.choose.texts import takes_text
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import PlacedDictionary, ends
from vitlens.features.places import suffix_of, tokens_in_words
from vitlens.features.splice import SplicedDictionary
from vitlens.features.top_examples import feature_numbers
from vitlens.model.class_space.outputs import WITH_PROBABILITIES, kl_divergence
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import ImageBatch, PictureBatches, PictureSource
from vitlens.model.runs.small_pictures import small_pictures
from vitlens.results.frames import Frame
from vitlens.results.result import MOST_KEPT, Result
from vitlens.statistics import bootstrap


@dataclass(frozen=True, repr=False)
class FeatureEffects(Result):
    """`values` [image, feature, class]: how the logit changes when a feature is removed; NaN where it is not active.

    A negative number says that the feature raised the logit. `kl` [image, feature] is the KL divergence of the answer
    without the feature from the answer with it, of outputs without probabilities the sum of squared differences. `means()`
    averages over the pictures.
    """

    kl: Float[Tensor, "image feature"]

    def means(self) -> pd.DataFrame:
        """For each feature and class the mean "change" over the pictures in which the feature is active.

        "low" and "high" are the ends of the 95 % interval by the bootstrap over pictures; "images" is the number of these
        pictures; "kl", "kl_low" and "kl_high" are of all classes together.
        """
        changes, kls = (bootstrap(values.double().cpu().numpy()) for values in (self.values, self.kl))
        n_active = (~self.kl.isnan()).sum(dim=0).tolist()
        labels = self.axes["class"]
        rows = [
            {
                "feature": feature,
                "class": labels[position],
                "images": n_active[i],
                **dict(zip(("change", "low", "high"), (part[i, position] for part in changes), strict=True)),
                **dict(zip(("kl", "kl_low", "kl_high"), (part[i] for part in kls), strict=True)),
            }
            for i, feature in enumerate(self.axes["feature"])
            for position in range(len(labels))
        ]
        return Frame(rows)


class _Effects(NamedTuple):
    """Those of a batch."""

    change: Float[Tensor, "image feature class"]
    kl: Float[Tensor, "image feature"]
    indices: Int[Tensor, "image class"]
    labels: list[str]


@leaves_state
@checked
@takes_text("all")
def feature_effects(
    model: HookedViT,
    images: PictureSource,
    classes: Classes = None,
    *,
    sae: SparseAutoencoder,
    features: int | Sequence[int],
    hook: HookName | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    batch_size: int | None = None,
    progress: bool | None = None,
) -> FeatureEffects:
    """Removes each feature alone, in each picture in which it is active, and measures how the model's answer changes.

    To remove a feature is to set it to 0 at all chosen tokens at once. The error of the reconstruction is kept, so only the
    feature's own part of the activation changes: y becomes y − f W_dec[f] at these tokens, and the later blocks run on it.

    Args:
        images: as `stream_activations`.
        classes: whose logits are followed: indices, names, "all", or a tensor [image] of each picture's own; None for each
            picture's predicted class.
        sae: the dictionary.
        features: indices of features.
        hook: where it reads; None for the hook point it was trained on.
        hook_out: what a transcoder predicts, see `with_sae`.
        tokens: where features are removed, see `select_tokens`; all by default.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        FeatureEffects with axes image, feature, class.

    Raises:
        InputError: a feature or class that does not exist; a dictionary of another width; a model without a classifier.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])  # each direction of the stream with both signs
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post5")
        >>> about = {"sae": sae, "features": [7, 8], "tokens": "class"}
        >>> effects = vitlens.features.feature_effects(model, images[:4], labels[:4], **about)
        >>> effects.values[:, 0, 0].round(decimals=2)  # without feature 7 the logit of the true class is lower
        tensor([-0.0200, -0.0700, -0.0400, -0.0500])
        >>> effects.values[:, 1, 0].isnan().tolist()  # feature 8 is active in the class token of the first picture only
        [False, True, True, True]
    """
    model.require_classifier()
    source, target = ends(model, hook, sae, hook_out)
    placed = PlacedDictionary(model, sae, (source,), (target,), tokens)
    chosen = feature_numbers(features, sae.d_sae)
    batches = PictureBatches(model, images, batch_size)
    if isinstance(classes, (Tensor, np.ndarray)) and batches.n_pictures not in (None, len(classes)):
        raise InputError(f"there are classes for {len(classes)} pictures, and {batches.n_pictures} pictures")
    found: list[_Effects] = []
    pixels = None
    with torch.no_grad():
        for batch in batches.with_bar("feature effects", progress):
            pixels = small_pictures(model, batch.images[:MOST_KEPT]) if pixels is None else pixels
            found.append(_effects(placed, batch, classes, chosen, batches.batch_size))
    if not found:
        raise InputError("there are no pictures to remove features in")
    indices = torch.cat([part.indices for part in found])
    return FeatureEffects(
        torch.cat([part.change for part in found]),
        {"image": list(range(len(indices))), "feature": chosen, "class": found[0].labels},
        "change",
        kl=torch.cat([part.kl for part in found]),
        classes=indices,
        class_names=model.class_names,
        pixels=pixels,
        settings={
            "model": model.cfg.model_name,
            "hook": source.name,
            "dictionary": sae.source,
            "tokens": tokens_in_words(tokens),
            "output": model.cfg.output,
        },
    )


def _effects(
    placed: PlacedDictionary, batch: ImageBatch, classes: Classes, features: list[int], batch_size: int
) -> _Effects:
    """Those of a batch: a clean run, and one for each picture and feature that is active in it."""
    model = placed.model
    run = suffix_of(model, batch.images, placed.places)
    spliced = SplicedDictionary(placed, error_term=True, record=True)
    clean = run(spliced.hooks())
    assert isinstance(spliced.features, Tensor)
    active = (spliced.features[..., features] != 0).flatten(1, -2).any(dim=1)
    own = classes[batch.ids] if isinstance(classes, (Tensor, np.ndarray)) else classes
    selection = select_classes(model, own, len(clean), lambda: clean)
    before = selection.take(clean)
    change = clean.new_full((len(clean), len(features), before.shape[1]), torch.nan)
    kl = clean.new_full(active.shape, torch.nan)
    for pictures, places, answers in _answers_without(placed, run, active, features, batch_size):
        followed = ClassSelection(selection.indices[pictures], selection.labels)
        change[pictures, places] = followed.take(answers) - before[pictures]
        if model.cfg.output in WITH_PROBABILITIES:
            kl[pictures, places] = kl_divergence(clean[pictures], answers, model.cfg.output)
        else:
            kl[pictures, places] = (answers - clean[pictures]).square().sum(dim=-1)
    return _Effects(change, kl, selection.indices, selection.labels)


def _answers_without(
    placed: PlacedDictionary,
    run: Callable[..., Float[Tensor, "image classes"]],
    active: Bool[Tensor, "image feature"],
    features: list[int],
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pairs of a picture and a feature's place in the list, some at a time, and the logits of these runs."""
    removed = torch.tensor(features, device=active.device)
    for pairs in active.nonzero().split(batch_size):
        pictures, places = pairs.unbind(dim=1)

        def remove(codes: Tensor, gone: Tensor = removed[places]) -> Tensor:
            index = gone.view(-1, *[1] * (codes.ndim - 1)).expand(*codes.shape[:-1], 1)
            return codes.scatter(-1, index, 0.0)

        hooks = SplicedDictionary(placed, error_term=True, edit=remove).hooks()
        yield pictures, places, run(hooks, pictures)
