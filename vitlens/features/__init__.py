"""Features by dictionary learning: activations to train on, and trained dictionaries at work in a model.

`load_sae` reads SAELens, Overcomplete and our own files; `with_sae` puts a dictionary in place of an activation;
`evaluate_sae` says what it costs the model; `feature_attribution` and `top_patches` say what each feature does and
sees. `stream_activations` yields activations to train a dictionary on.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
