"""Direct logit attribution: how much each head, MLP, neuron, token or path adds to the logit of a class.

`direct_logit_attribution` splits a logit into terms that sum to it exactly; `unit=` chooses the terms.
`attribution_means` averages the terms over a data set, class by class.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
