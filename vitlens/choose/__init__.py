"""Selects the tokens, classes, sites and metric of a call.

`select_tokens` turns "class token", `patch(row, column)`, `box(…)` or a mask into tokens; `select_classes` turns names,
indices or None (the predicted class) into one set of classes for each picture. Every analysis reads its `tokens`,
`classes`, `site` and `metric` arguments through these, so they accept the same things everywhere.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
