"""Causes: run the model with activations of another picture, of the mean, or of nothing.

`activation_patching` puts clean activations into a corrupted run, `path_patching` only along one path,
`attribution_patching` and `edge_attribution_patching` estimate the same by gradients, `activation_ablation` replaces
parts by zero, a mean, noise or other pictures. `transformer_lens` has TransformerLens' own patching functions, by
their names.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
