"""The class lens: the residual stream, or what a head or an MLP writes, projected onto the class embeddings.

`class_lens` gives logits, ranks and probabilities of chosen classes at every block and token; `class_trace`
streams the same over many pictures. `identifiability`, `residual_composition` and the other measures are the
paper's. `ProbeFit` trains linear probes where the classifier's own projection does not fit.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
