"""The page of a dictionary: every feature with its examples, what is active in pictures, and what a dose of it does."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from vitlens.arguments import checked, is_whole, items, short
from vitlens.choose.tokens import TokenSet
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.features.placed import ends
from vitlens.features.top_examples import feature_numbers
from vitlens.model.hooked_vit import HookedViT
from vitlens.model.hooks.hook_points import HookName
from vitlens.model.runs.leaves_state import leaves_state
from vitlens.model.runs.picture_batches import PictureBatches, PictureSource
from vitlens.pages.dictionary.feature_explorer import FeatureExplorer
from vitlens.pages.dictionary.labels import FeatureLabels, dictionary_fingerprint, read_feature_labels
from vitlens.pages.dictionary.measure.one_pass import OnePass
from vitlens.pages.dictionary.measure.place import DictionaryInPlace
from vitlens.pages.dictionary.measured import Steering, measured_features
from vitlens.pages.picture_names import picture_names

#: More pictures would make the page too large for a browser.
MOST_SHOWN_WHOLE = 100


@leaves_state
@checked
def explore_features(
    model: HookedViT,
    sae: SparseAutoencoder,
    images: PictureSource,
    *,
    hook: HookName | None = None,
    hook_out: HookName | None = None,
    tokens: TokenSet = "all",
    shown: int | Sequence[int] = 12,
    features: int | Sequence[int] | None = None,
    doses: Sequence[int | float] = (0, 0.5, 1, 2, 4),
    n_runs: int = 60,
    feature_labels: FeatureLabels | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> FeatureExplorer:
    """Measures every feature of a dictionary for the interactive page: in a notebook, the last line of a cell shows it.

    The page has a list of all features, a card for each with its strongest pictures and with examples from weak to strong,
    some pictures whole with all that is active at each of their patches, and what the model answers while a feature has 0,
    1, 2, … times the activation that it has. Labels are typed into it and saved to a file.

    The pictures are read once, in memory that does not grow with their number. All numbers are those of `top_patches`
    (with `one_per_image=True`), `feature_attribution` and `with_sae`.

    Args:
        sae: the dictionary, a sparse autoencoder or a transcoder.
        images: where examples are looked for, as `stream_activations` takes it; a picture's number is its position in it.
        hook: where it reads; None for the hook point it was trained on.
        hook_out: what a transcoder predicts, see `with_sae`.
        tokens: the tokens that count, see `select_tokens`: those that the dictionary was trained on.
        shown: how many pictures the page shows whole, drawn from all; or the numbers of these pictures.
        features: which features are steered in each of them; None for those that are worth most to its answer, and the
            most active ones.
        doses: how many times its activation a steered feature gets: 0 removes it, 1 changes nothing.
        n_runs: how many runs of the model the doses may cost for each picture.
        feature_labels: labels of features, {12: "grass"}, or a file of them that the page or `save_labels` wrote.
        batch_size: pictures of a forward; by default 64, or fewer where these would take much memory.
        progress: show a bar; by default on a terminal only.

    Returns:
        FeatureExplorer: `.save("features.html")` writes the page, `.labels` are its labels.

    Raises:
        InputError: a dictionary of another width; a hook point without tokens; a feature or picture that does not exist;
            doses that are no finite numbers; labels of another dictionary; no pictures, or pictures of several sizes.

    Source: Bricken et al. 2023 for the card of a feature; Templeton et al. 2024 for doses.

    Examples:
        >>> import torch
        >>> import vitlens
        >>> model, images, labels, masks = vitlens.load_demo()
        >>> identity = torch.eye(model.cfg.d_model)
        >>> sae = vitlens.features.SparseAutoencoder.from_arrays(identity, None, identity, None, hook="resid_post3")
        >>> explorer = vitlens.explore_features(model, sae, images[:4], shown=1, n_runs=5)
        >>> explorer
        FeatureExplorer(96 features over 4 pictures, 1 of them shown whole; .save(path) writes the page)
        >>> explorer.save("features.html")
    """
    source, target = ends(model, hook, sae, hook_out)
    if not (source.has_tokens and target.has_tokens):
        raise InputError(f"{target.name} has no tokens, so its features have no place in a picture: see top_patches")
    steering = _steering(features, doses, n_runs, sae.d_sae)
    labels = read_feature_labels(feature_labels, sae.d_sae, dictionary_fingerprint(sae))
    found = OnePass(model.cfg.n_prefix_tokens, _shown(shown))
    found.run(model, PictureBatches(model, images, batch_size), sae, source, target, tokens, progress)
    place = DictionaryInPlace(sae, hook, hook_out, source, target, tokens)
    names = picture_names(images, {*found.crops.encoded, *(picture.number for picture in found.shown)})
    return FeatureExplorer(model, place, measured_features(model, found, place, steering, names), labels)


def _steering(
    features: int | Sequence[int] | None, doses: Sequence[int | float], n_runs: int, n_features: int
) -> Steering:
    """
    Raises:
        InputError: a feature that does not exist, doses that are no numbers, more runs than a picture may cost.
    """
    given: list[Any] = list(doses) if isinstance(doses, (list, tuple)) else [doses]
    if not given or any(not _is_number(dose) for dose in given):
        raise InputError(f"doses are finite numbers such as (0, 0.5, 1, 2, 4), not {short(doses)}")
    # The run that nothing is changed in is always among them.
    each = sorted({1.0, *(float(dose) for dose in given)})
    if n_runs < len(each):
        raise InputError(
            f"n_runs={n_runs} allows not one feature at {len(each)} doses (1 is always one): allow more runs"
        )
    if features is None:
        return Steering(None, each, n_runs // len(each))
    chosen = feature_numbers(features, n_features)
    if len(chosen) * len(each) > n_runs:
        raise InputError(
            f"{len(chosen)} features at {len(each)} doses are {len(chosen) * len(each)} runs of a picture, more than "
            f"n_runs={n_runs}: name fewer features, or allow more runs"
        )
    return Steering(chosen, each, len(chosen))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _shown(shown: int | Sequence[int]) -> int | list[int]:
    if is_whole(shown):
        if not 0 <= int(shown) <= MOST_SHOWN_WHOLE:  # type: ignore[arg-type]
            raise InputError(f"shown is how many pictures are shown whole, 0 to {MOST_SHOWN_WHOLE}, not {shown}")
        return int(shown)  # type: ignore[arg-type]
    numbers = [int(number) for number in items(shown)]
    if len(numbers) > MOST_SHOWN_WHOLE or any(number < 0 for number in numbers):
        raise InputError(
            f"shown are the numbers of at most {MOST_SHOWN_WHOLE} pictures, counted from 0, not {short(shown)}"
        )
    return numbers
