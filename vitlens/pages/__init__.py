"""HTML pages that need no network: the report of one picture, the description of a model, the explorer.

`explore` opens an interactive page on pictures of your choice; `write_picture_report` and `write_description_page`
write one file each.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
