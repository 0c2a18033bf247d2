"""The explorer in a notebook: the page's own scripts, with its choices kept the same as Python's."""

from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from vitlens.errors import InputError
from vitlens.pages.explorer.page import script, style
from vitlens.pages.explorer.selection import Selection

if TYPE_CHECKING:
    from vitlens.pages.explorer.explorer import Explorer


class ExplorerWidget(anywidget.AnyWidget):
    """`selection` is what is chosen, both ways; `effect` the last intervention; the rest is measured and does not change."""

    _esm = script()
    _css = style()
    facts = traitlets.Dict().tag(sync=True)
    pictures = traitlets.List(traitlets.Bytes()).tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)
    effect = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(self, explorer: "Explorer") -> None:
        super().__init__(
            facts=explorer.facts,
            pictures=explorer.pictures,
            selection=explorer.selection.as_json(),
            effect=explorer.effect,
        )
        self._explorer = explorer
        self.observe(self._follow, "selection")
        self.on_msg(self._answer)

    def show(self, selection: Selection) -> None:
        """Moves the widget to what was chosen in Python."""
        self.selection = selection.as_json()

    def _follow(self, change: Any) -> None:
        for name, value in change["new"].items():
            self._explorer.selection.choose(name, value)

    def _answer(self, widget: Any, content: dict[str, Any], buffers: object) -> None:
        """The page's button asks for an ablation of what is marked, or for its removal."""
        if content.get("ask") != "ablate":
            return
        replacement = content.get("replacement", "zero")
        try:
            if replacement == "remove":
                self._explorer.remove()
            else:
                self._explorer.patch(replacement=replacement, site=content.get("site", "resid_pre"))
        except InputError as error:
            self.effect = {"picture": self._explorer.selected_picture, "title": str(error), "cells": [], "shift": []}
