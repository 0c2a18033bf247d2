"""Figures of words: names of parts of the network, and words of pictures."""

from vitlens.plots.text.named import name_areas, word_bars
from vitlens.text.feature_names import FeatureNames
from vitlens.text.sparse_concepts import SparseWords

FIGURES = {FeatureNames: name_areas, SparseWords: word_bars}
