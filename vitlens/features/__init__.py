"""Features from dictionary learning: activations to train on, and trained dictionaries inside a model.

`stream_activations` yields activations to train a dictionary on, and `load_sae` reads a trained one (of eight
libraries, or saved here). `with_sae` puts it in place of an activation, `evaluate_sae` measures what that
costs the model, and `feature_attribution` and `top_patches` show what each feature does and where it is active.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
