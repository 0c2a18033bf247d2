"""Removal: what the model predicts without some tokens, or without some attention edges.

`ablate_tokens` removes tokens from the sequence or replaces them. `knockout_attention` cuts attention between
sets of tokens, and `knockout_hooks` returns the hooks for runs of your own.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
