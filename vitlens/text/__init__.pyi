from .feature_names import FeatureNames as FeatureNames
from .feature_names import name_features as name_features
from .sparse_concepts import SparseWords as SparseWords
from .sparse_concepts import sparse_words as sparse_words
from .sparse_concepts import sparse_words_of as sparse_words_of
from .tower import TextTower as TextTower
from .vocabulary import Vocabulary as Vocabulary
from .vocabulary import load_vocabulary as load_vocabulary
