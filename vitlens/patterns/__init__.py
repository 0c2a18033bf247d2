"""Attention patterns: how much each head attends to each token.

`attention(model, images, head="L9H0")` gives an `AttentionMaps`: of one head, of several, or of all heads of a block,
for the class token or any other set of queries; `.plot()` shows it over the picture.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
