"""Docstrings are plain text: what Markdown would take for a link is shown as it is written."""

from typing import Any

import griffe


class PlainBrackets(griffe.Extension):
    """ "[block][head]" names two axes, and is no link."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("][", "]\\[")
