"""What is left of the decision without these tokens, or without these attention edges.

`ablate_tokens` takes tokens out of the sequence or replaces them; `knockout_attention` cuts attention between sets of
tokens; `knockout_hooks` gives the same as hooks for runs of your own.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
