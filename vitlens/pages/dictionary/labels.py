"""Labels that people give to features: checked, read from a file, written to one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlens.arguments import is_whole, short
from vitlens.errors import InputError
from vitlens.features.dictionaries.dictionary import SparseAutoencoder
from vitlens.files import as_path

#: What a file of labels says that it is.
KIND_OF_FILE = "vitlens feature labels"
#: A label is a few words; a longer one is no label.
MOST_LETTERS = 1000

FeatureLabels = Mapping[int, str] | str | Path


def read_feature_labels(given: FeatureLabels | None, n_features: int, dictionary: str) -> dict[int, str]:
    """Labels by feature, of a mapping or of a file that `save_labels` or the page wrote.

    Args:
        dictionary: the fingerprint of the dictionary that they must be of.

    Raises:
        InputError: no such file, a file of something else, labels of another dictionary, or of a feature that it has not.
    """
    if given is None:
        return {}
    labels: Any = given
    if isinstance(given, (str, Path)):
        document = _document(as_path(given))
        if document.get("dictionary") != dictionary:
            raise InputError(
                f"{given} holds labels of another dictionary ({document.get('source') or 'without a name'}): pass the "
                "labels of this one"
            )
        labels = document["labels"]
    if not isinstance(labels, Mapping):
        raise InputError(
            f"feature_labels is a mapping from features to texts, or a file of labels, not {short(labels)}"
        )
    return dict(sorted(_label(feature, text, n_features) for feature, text in labels.items()))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise InputError(f"{path} cannot be read as a file of labels: {why}") from None
    if not isinstance(document, dict) or document.get("kind") != KIND_OF_FILE or "labels" not in document:
        raise InputError(f"{path} is no file of labels: pass one that the page or save_labels wrote")
    return document


def _label(feature: Any, text: Any, n_features: int) -> tuple[int, str]:
    if isinstance(feature, str) and feature.isdecimal():
        feature = int(feature)
    if not is_whole(feature) or not 0 <= feature < n_features:
        raise InputError(f"there is no feature {short(feature)} to label: the dictionary has 0 to {n_features - 1}")
    if not isinstance(text, str) or not text.strip() or len(text) > MOST_LETTERS:
        raise InputError(f"the label of feature {feature} is a text of 1 to {MOST_LETTERS} letters, not {short(text)}")
    return int(feature), text.strip()


def labels_text(labels: Mapping[int, str], about: Mapping[str, str]) -> str:
    """What a file of labels holds; `about` says of which dictionary they are."""
    document = {"kind": KIND_OF_FILE, **about, "labels": {str(feature): text for feature, text in labels.items()}}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def dictionary_fingerprint(sae: SparseAutoencoder) -> str:
    """Its weights' names and values, in sixteen letters: labels of one dictionary mean nothing for another."""
    digest = hashlib.sha256()
    for name, weights in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
