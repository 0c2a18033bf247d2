"""Direct logit attribution: which heads, MLPs, neurons, tokens and paths wrote the logit of a class.

`direct_logit_attribution` splits one logit into a sum of terms, exactly; `unit=` says into which. `attribution_means`
averages the terms over a data set, class by class.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
