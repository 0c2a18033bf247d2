"""Describes a model over many pictures: token norms, attention distances, sinks, similarity of heads.

`describe` goes through any number of pictures once. `Description` has tables of heads and blocks, and warnings
about what distorts heatmaps. `SinkRule` defines when a head has an attention sink. `artefact_warning` says
whether a heatmap shows artefact tokens.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
