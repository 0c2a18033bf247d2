"""Evaluates a dictionary beside others: reconstruction, sparsity, the model's answers, and what its features mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from vitlens.arguments import as_whole, checked, items, short
from vitlens.choose.classes import read_labels
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.cross_layer import CrossLayerTranscoder
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.evaluation.baselines import BASELINES, read_baselines
from vitlens.features.evaluation.entrants import Entrant
from vitlens.features.evaluation.estimates import Estimate
from vitlens.features.evaluation.metrics import wanted_measures
from vitlens.features.evaluation.passes import Passes
from vitlens.features.evaluation.result import EVALUATED, DictionaryEvaluation
from vitlens.features.placed import AnyDictionary, place_dictionary
from vitlens.features.places import HookPlace, tokens_in_words
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.batch_size import default_batch_size
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource

#: Of a dictionary that has no such measure.
NO_ESTIMATE = Estimate(float("nan"))
Beside = Mapping[str, AnyDictionary | tuple[HookedViT, AnyDictionary]]


@leaves_state
@checked
def evaluate_sae(
    model: HookedViT,
    images: PictureSource,
    *,
    sae: AnyDictionary,
    hook: HookName | None = None,
    labels: Tensor | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    metrics: str | Sequence[str] | None = None,
    baselines: str | Sequence[str] = BASELINES,
    beside: Beside | None = None,
    other_model: HookedViT | None = None,
    groups: Mapping[str, Sequence[int | str]] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> DictionaryEvaluation:
    """Measures a dictionary, and beside it the neurons themselves, PCA, k-means and random directions.

    The groups of measures, which the page "Judging dictionaries" defines one by one:

    - "reconstruction": squared error, explained variance (of all rows, and of each kind of token about its own mean),
      cosine, l0, and the shares of features that are dead (never on) and dense (on in more than 10 % of the rows);
    - "downstream": how the model's answers change with the dictionary in place, compared with zeros and with the mean
      activation x̄ at the same tokens; with labels also losses, accuracies and loss recovered =
      (L_ablated − L_sae) / (L_ablated − L_clean);
    - "locality": Moran's I of the features on the grid of patches;
    - "monosemanticity": how alike the pictures are that a feature is on in, by `other_model` and by the labels;
    - "probing": how well few features tell the labels apart;
    - "absorption": the share of classes of each group that have no features of their own.

    The pictures are run twice, since means and baselines must be known first. Memory does not grow with their number:
    of more than 4,096 pictures intervals are drawn over random groups, and probes learn from at most 10,000.

    The answers are compared by what the outputs mean (`HookedViT.set_output`): by the KL divergence and by how often the
    predictions agree, of sigmoid outputs summed and averaged over the outputs; by Σ (y − ŷ)² of numbers and embeddings.
    Losses and accuracies are those of classes that exclude each other.

    Args:
        images: as `stream_activations`.
        sae: the dictionary.
        hook: where it reads; None for the hook point it was trained on.
        labels: the class of each picture, in order; by default those that come with the pictures, if any do.
        hook_out: what a transcoder predicts, see `with_sae`; its reconstruction is compared with that.
        tokens: which tokens are reconstructed, see `select_tokens`; all by default, as in `stream_activations`: pass the
            tokens that the dictionary was trained on.
        metrics: names of the groups above, or "all"; reconstruction is always measured. By default the first three, and
            monosemanticity and absorption if `other_model` and `groups` are given. What means nothing for the data is left
            out and noted in `left_out`.
        baselines: which of "neurons", "pca", "kmeans" and "random", see `baseline_dictionaries`; () for none.
        beside: further dictionaries by name. One of another model is given with its model, as in
            `{"random model": (model.with_fresh_weights(), sae_of_it)}`; the answers of that model are not compared.
        other_model: a second model, whose pooled output says how alike two pictures are: another one than `model`, since
            pictures that are alike for `model` are alike in its own features.
        groups: classes that are kinds of one thing, by a name for it, at least 3 in each: `{"dog": ["pug", "beagle", …]}`.
        seed: of the baselines, and of which pictures probes are scored on.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        DictionaryEvaluation with the axes dictionary and measure; `result["explained_variance"]` is the measure of `sae`,
        `result["pca", "explained_variance"]` that of a baseline.

    Raises:
        InputError: a dictionary of another width; no pictures; labels of another number, or of outputs that are no classes
            that exclude each other; an unknown metric, or one that was named and cannot be measured on these data.

    Source: Bricken et al. 2023; Gao et al. 2024, section 4; Sun et al. 2025 (dense); Moran 1950; Pach et al. 2025;
        Karvonen et al. 2025 (SAEBench); ViSAEBench 2026.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> both = torch.cat([identity, -identity])
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(both.T, None, both, None, hook="resid_post3")
        >>> quality = vitlens.features.evaluate_sae(model, images[:8], sae=sae, labels=labels[:8], baselines=["random"])
        >>> round(quality["explained_variance"], 2), round(quality["loss_recovered_mean"], 2)
        (1.0, 1.0)
        >>> quality["random", "explained_variance"] < 0.9
        True
    """
    names_of_baselines = read_baselines(baselines)
    main = Entrant(EVALUATED, place_dictionary(model, hook, sae, hook_out, tokens))
    wanted = wanted_measures(
        metrics,
        has_other_model=other_model is not None,
        has_groups=bool(groups),
        has_classifier=model.unembed is not None,
    )
    if isinstance(sae, CrossLayerTranscoder) and names_of_baselines:
        names_of_baselines = []
        wanted.left_out.append(
            "baselines: there are none of a cross-layer transcoder, which reads and writes in several blocks"
        )
    classes = {name: _indices(model, name, group) for name, group in _named(groups, "groups")}
    entrants = [main, *(_entrant(main, name, given, names_of_baselines) for name, given in _named(beside, "beside"))]
    known = None if labels is None else _labels(model, labels)
    models = [entrant.model for entrant in entrants] + ([] if other_model is None else [other_model])
    size = min(map(default_batch_size, models)) if batch_size is None else batch_size
    passes = Passes(PictureBatches(model, images, size), entrants, wanted, seed)
    other = None if other_model is None else (other_model, PictureBatches(other_model, images, size))
    with torch.no_grad():
        passes.prepare(names_of_baselines, progress)
        passes.measure(known, other if "monosemanticity" in wanted else None, progress)
        found = passes.estimates(classes)
    names = list(dict.fromkeys(name for measures in found.values() for name in measures))
    numbers = torch.tensor(
        [[measures.get(name, NO_ESTIMATE) for name in names] for measures in found.values()], dtype=torch.float64
    )
    values, low, high = numbers.unbind(dim=-1)
    judge = passes.judges[EVALUATED]
    return DictionaryEvaluation(
        values,
        {"dictionary": list(found), "measure": names},
        "value",
        low,
        high,
        judge.reconstruction.density,
        judge.reconstruction.mean_activation,
        None if judge.locality is None else judge.locality.of_features(),
        None if judge.monosemanticity is None else judge.monosemanticity.of_features(),
        wanted.left_out,
        settings={
            "model": model.cfg.model_name,
            "hook": _names(main.placed.sources),
            "dictionary": sae.source,
            "tokens": tokens_in_words(tokens),
            "pictures": passes.n_pictures,
            "rows": judge.reconstruction.n_rows,
        },
    )


def _named(given: Any, argument: str) -> list[tuple[str, Any]]:
    """The items of a mapping from names; none where it is None.

    Raises:
        InputError: something else.
    """
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise InputError(f"{argument}= is a dictionary from names, not {short(given)}")
    return [(str(name), value) for name, value in given.items()]


def _entrant(
    main: Entrant, name: str, given: AnyDictionary | tuple[HookedViT, AnyDictionary], baselines: Sequence[str]
) -> Entrant:
    """One of the dictionaries that are named in `beside`.

    Raises:
        InputError: a name that is taken, no dictionary, or one of the same model that predicts another hook point.
    """
    if name == EVALUATED or name in baselines:
        raise InputError(f"beside= names a dictionary {name!r}, as another one is named: choose another name")
    model, sae = given if isinstance(given, tuple) and len(given) == 2 else (main.model, given)
    if not isinstance(sae, (SparseAutoencoder, CrossLayerTranscoder)) or not isinstance(model, HookedViT):
        raise InputError(f"beside= gives a dictionary, or (model, dictionary), for each name, not {short(given)}")
    is_placed = isinstance(sae, CrossLayerTranscoder) or sae.hook is not None
    hook = None if is_placed else main.placed.sources[0].name
    placed = place_dictionary(model, hook, sae, tokens=main.placed.tokens)
    if model is main.model and placed.targets != main.placed.targets:
        raise InputError(
            f"beside= names {name!r}, which predicts {_names(placed.targets)}: only dictionaries that predict "
            f"{_names(main.placed.targets)} can be compared with this one"
        )
    return Entrant(name, placed)


def _names(places: Sequence[HookPlace]) -> str:
    return ", ".join(place.name for place in places)


def _labels(model: HookedViT, labels: Any) -> Int[Tensor, "image"]:
    """Labels as they are given.

    Raises:
        InputError: no whole numbers, one that the model has no class for, or outputs that do not exclude each other.
    """
    if model.cfg.output != "softmax":
        raise InputError(
            f"labels= are classes that exclude each other, and the outputs of {model.cfg.model_name} are "
            f"output={model.cfg.output!r}: leave them out"
        )
    if model.unembed is not None:
        return read_labels(model, labels)
    return torch.tensor([as_whole(label, "a label") for label in items(labels)])


def _indices(model: HookedViT, name: str, group: Sequence[int | str]) -> list[int]:
    """The classes of a group as indices.

    Raises:
        InputError: no list of classes, or a class that the model does not have.
    """
    if isinstance(group, str) or not isinstance(group, Sequence):
        raise InputError(f"groups= gives a list of classes for each name, not {short(group)} for {name!r}")
    if model.unembed is None:
        return [as_whole(one, "a class of a model without a classifier") for one in group]
    return [model.class_index(one) for one in group]
