"""Figures of words: names of parts of the network, words of pictures, and how texts classify them."""

from vitlens.plots.text.confusion import confusion_board
from vitlens.plots.text.named import name_areas, word_bars
from vitlens.plots.text.parts import head_names_board, neuron_names_bars
from vitlens.text.accuracy import ZeroShotAccuracy
from vitlens.text.names.features import FeatureNames
from vitlens.text.names.heads import HeadNames
from vitlens.text.names.neurons import NeuronNames
from vitlens.text.sparse_codes.words import SparseWords

FIGURES = {
    ZeroShotAccuracy: confusion_board,
    FeatureNames: name_areas,
    SparseWords: word_bars,
    HeadNames: head_names_board,
    NeuronNames: neuron_names_bars,
}
