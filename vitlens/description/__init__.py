"""A description of a model over many pictures: token norms, attention distance, sinks, similarity of heads.

`describe` streams any number of pictures once; `Description` has tables of heads and blocks, and warnings of what
corrupts heatmaps. `SinkRule` says when a head counts as an attention sink. `artefact_warning` says where a heatmap
shows artefact tokens.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
