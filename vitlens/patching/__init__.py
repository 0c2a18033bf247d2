"""Causes: runs the model with activations from another picture, with means, with noise or with zeros.

`activation_patching` copies clean activations into a corrupted run, `path_patching` along one path only.
`attribution_patching` and `edge_attribution_patching` estimate the same effects with gradients.
`activation_ablation` replaces activations by zeros, a mean, noise or those of other pictures.
`transformer_lens` holds TransformerLens' own patching functions under their names.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
