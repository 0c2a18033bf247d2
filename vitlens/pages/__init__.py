"""HTML pages that need no network: one about pictures, one that describes a model.

`explore` measures pictures, and shows them in a notebook or writes the interactive page; `write_description_page`
writes the other.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
