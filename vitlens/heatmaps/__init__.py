"""Heatmaps: how much each patch of the picture contributed to a class, by 18 methods in one call.

`heatmap(model, images, method="…")` gives a `Heatmap`, with `keep=("block", "head")` by block and head where the method
can; `heatmap_methods()` lists the methods, their options and sources. The methods are in `methods/`, one file each;
what several of them need is in `shared/`.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
