"""HTML pages that need no network: about pictures, a dictionary, attribution graphs, a model's tokens, and a repair.

`explore`, `explore_features` and `explore_graph` measure, and show their page in a notebook or write it as a file;
`write_description_page` and `write_repair_page` write the others.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
