"""The page of features in a notebook: its choices and labels are kept the same as Python's, and doses are run live."""

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from vitlens.errors import InputError
from vitlens.pages.dictionary.page import features_script, features_style
from vitlens.pages.explorer.measure.quantise import as_numpy

if TYPE_CHECKING:
    from vitlens.pages.dictionary.feature_explorer import FeatureExplorer


class FeatureWidget(anywidget.AnyWidget):
    """`selection` and `labels` go both ways; `steered` answers the last question for a dose; the rest does not change."""

    _esm = features_script()
    _css = features_style()
    facts = traitlets.Dict().tag(sync=True)
    numbers = traitlets.Bytes().tag(sync=True)
    crops = traitlets.Unicode().tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)
    labels = traitlets.Dict().tag(sync=True)
    steered = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(self, explorer: "FeatureExplorer") -> None:
        super().__init__(
            facts=explorer.facts,
            numbers=explorer.packed,
            crops="\n".join(explorer.crops),
            selection=explorer.selection(),
            labels=explorer.labels_as_json(),
        )
        self._explorer = explorer
        self.observe(self._follow, ["selection", "labels"])
        self.on_msg(self._answer)

    def show(self, explorer: "FeatureExplorer") -> None:
        """Moves the widget to what was chosen in Python."""
        self.selection, self.labels = explorer.selection(), explorer.labels_as_json()

    def _follow(self, change: Any) -> None:
        if change["name"] == "labels":
            self._explorer.labels = {int(feature): text for feature, text in change["new"].items()}
        else:
            self._explorer.selected_picture = change["new"]["picture"]
            self._explorer.selected_feature = change["new"]["feature"]

    def _answer(self, widget: Any, content: dict[str, Any], buffers: object) -> None:
        """The page asks what the model answers at doses that it does not hold."""
        if content.get("ask") != "steer":
            return
        explorer, feature, doses = self._explorer, content["feature"], content["doses"]
        asked = {"feature": feature, "doses": doses, "picture": explorer.selected_picture}
        try:
            logits = [as_numpy(explorer.steer(feature, float(dose))).tolist() for dose in doses]
        except InputError as error:
            self.steered = asked | {"error": str(error)}
        else:
            self.steered = asked | {"logits": logits}
