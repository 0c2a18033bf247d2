"""Plotly figures of results, one function for each; `plot(result)` chooses the one that fits.

Figures are light; `dark(figure)` gives the same one for a dark background.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
