"""The object that `explore_features` returns: what was measured, the labels, and ways to show and to save them."""

import html
from collections.abc import Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from vitlens.arguments import checked
from vitlens.errors import InputError
from vitlens.files import check_writable, write_whole
from vitlens.model.hooked_vit import HookedViT
from vitlens.pages.dictionary.labels import labels_text, read_feature_labels
from vitlens.pages.dictionary.measure.doses import logits_at_doses
from vitlens.pages.dictionary.measure.place import DictionaryInPlace
from vitlens.pages.dictionary.measured import MeasuredFeatures
from vitlens.pages.dictionary.page import features_page
from vitlens.pages.one_file import pack_tensors

if TYPE_CHECKING:
    from vitlens.pages.dictionary.widget import FeatureWidget


class FeatureExplorer:
    """All features of a dictionary and their examples, with labels that can be typed in; see `explore_features`.

    In a notebook with anywidget installed the choices and labels follow what is clicked and typed, and setting one changes
    the widget; elsewhere they say how the page opens.
    """

    def __init__(
        self, model: HookedViT, place: DictionaryInPlace, measured: MeasuredFeatures, labels: Mapping[int, str]
    ) -> None:
        self.model, self.place = model, place
        self.facts, self.tensors = measured.facts, measured.tensors
        self.crops, self.images = measured.crops, measured.images
        self._labels = dict(labels)
        self._feature = int(self.tensors["top_values"][:, 0].argmax())
        self._picture = 0

    # ---- what is chosen ------------------------------------------------------------------------------------------

    @property
    def labels(self) -> dict[int, str]:
        """The labels by feature; setting them replaces all."""
        return dict(self._labels)

    @labels.setter
    def labels(self, labels: Mapping[int, str]) -> None:
        if not isinstance(labels, Mapping):
            raise InputError('labels are a mapping from features to texts, such as {12: "grass"}')
        self._labels = read_feature_labels(labels, self.place.sae.d_sae, self.facts["dictionary"]["fingerprint"])
        self._follow()

    @property
    def selected_feature(self) -> int:
        """The feature whose card is shown."""
        return self._feature

    @selected_feature.setter
    def selected_feature(self, feature: int) -> None:
        self._feature = self._check_feature(feature)
        self._follow()

    @property
    def selected_picture(self) -> int:
        """The place of the large picture among those that are shown whole."""
        return self._picture

    @selected_picture.setter
    def selected_picture(self, picture: int) -> None:
        self._picture = self._check_picture(picture)
        self._follow()

    def _check_feature(self, feature: Any) -> int:
        n = self.place.sae.d_sae
        if isinstance(feature, bool) or not isinstance(feature, (int, np.integer)) or not 0 <= feature < n:
            raise InputError(f"there is no feature {feature!r}: the dictionary has features 0 to {n - 1}")
        return int(feature)

    def _check_picture(self, picture: Any) -> int:
        n = len(self.images)
        if isinstance(picture, bool) or not isinstance(picture, (int, np.integer)) or not 0 <= picture < n:
            raise InputError(f"there is no picture {picture!r} on the page: it shows {n}, counted from 0")
        return int(picture)

    def _follow(self) -> None:
        if "widget" in self.__dict__:
            self.widget.show(self)

    # ---- what a dose does ----------------------------------------------------------------------------------------

    @checked
    def steer(self, feature: int, dose: float) -> Float[Tensor, "class"]:
        """The logits of the chosen picture while a feature has `dose` times its activation at every token.

        A dose of 0 removes it, 1 changes nothing. What the dictionary does not reconstruct stays as it is.

        Raises:
            InputError: no such feature; a dose that is not finite; a model without a classifier; no picture is shown.
        """
        self.model.require_classifier()
        image = self.images[self._check_picture(self._picture)]
        return logits_at_doses(self.model, image, self.place, [self._check_feature(feature)], [dose])[0, 0]

    # ---- showing -------------------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """A row for each feature: density, largest activation, pictures in which it is active, Moran's I, class, label."""
        tensors, names = self.tensors, self.facts["class_names"]
        classes = tensors["class_ids"]
        raised = [names[str(index)][1] for index in classes[:, 0].tolist()] if classes.shape[1] else None
        return pd.DataFrame(
            {
                "feature": np.arange(len(tensors["counts"])),
                "density": tensors["counts"].sum(axis=1) / self.facts["n_tokens"],
                "largest": tensors["top_values"][:, 0],
                "pictures": tensors["n_active"],
                "morans_i": tensors["locality"],
                **({} if raised is None else {"class": raised}),
                "label": [self._labels.get(feature, "") for feature in range(len(tensors["counts"]))],
            }
        )

    def selection(self) -> dict[str, Any]:
        """What the page opens with, as JSON can keep it."""
        return {"feature": self._feature, "picture": self._picture}

    def labels_as_json(self) -> dict[str, str]:
        return {str(feature): text for feature, text in self._labels.items()}

    def to_html(self) -> str:
        """The page as text."""
        facts = self.facts | {"selection": self.selection(), "labels": self.labels_as_json()}
        return features_page(facts, self.packed, self.crops)

    @cached_property
    def packed(self) -> bytes:
        """The numbers as the page and the notebook read them."""
        return pack_tensors(self.tensors)

    def save(self, path: str | Path) -> None:
        """Writes the page: one HTML file that needs no network.

        Raises:
            InputError: the folder does not exist or cannot be written to.
        """
        check_writable(path)
        write_whole(path, self.to_html().encode(errors="backslashreplace"))

    def save_labels(self, path: str | Path) -> None:
        """Writes the labels: a JSON file as the page's own button writes it, which `feature_labels=` reads again.

        Raises:
            InputError: the folder does not exist or cannot be written to.
        """
        check_writable(path)
        dictionary = self.facts["dictionary"]
        about = {"dictionary": dictionary["fingerprint"], "source": dictionary["source"], "hook": dictionary["hook"]}
        write_whole(path, labels_text(self._labels, about).encode())

    @cached_property
    def widget(self) -> "FeatureWidget":
        """The live widget of a notebook.

        Raises:
            InputError: anywidget is not installed.
        """
        if find_spec("anywidget") is None:
            raise InputError("the live page of features needs anywidget: pip install anywidget")
        from vitlens.pages.dictionary.widget import FeatureWidget

        return FeatureWidget(self)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for where there is no widget."""
        return (
            f'<iframe srcdoc="{html.escape(self.to_html())}" title="vitlens features" '
            'style="width: 100%; height: 900px; border: 0"></iframe>'
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None, **_: Any) -> Any:
        if find_spec("anywidget") is None:
            return {"text/plain": repr(self), "text/html": self._repr_html_()}
        bundle = self.widget._repr_mimebundle_()
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        # Without text/html of its own IPython would add the whole page to the notebook, beside the widget.
        note = "<p>This page is live in a notebook; <code>explorer.save(…)</code> writes it as a file.</p>"
        return {**(data or {}), "text/plain": repr(self), "text/html": note}, metadata

    def __repr__(self) -> str:
        return (
            f"FeatureExplorer({self.place.sae.d_sae:,} features over {self.facts['n_images']:,} pictures, "
            f"{len(self.images)} of them shown whole; .save(path) writes the page)"
        )
