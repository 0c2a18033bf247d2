"""Vision transformers whose weights are constructed, not trained: their mechanism is known, and methods can be scored.

    from vitlens.planted import PLANTED, planted
    vit = planted("context_cue")
    pairs = vit.pictures(64)
    vit.model(pairs.images), vit.truth.heads, vit.truth.edges

Each is an ordinary timm VisionTransformer in which a small circuit decides the class. Everything else is busy too: idle
heads attend sharply and idle neurons fire, but they write where the circuit does not read.

    vit = planted_features(48)
    vit.directions, vit.pictures(64).strengths

Here the residual stream is a sparse code that is known: dictionaries should find it again (`feature_recovery`).

    vit = planted_words()
    vit.model, vit.tower, vit.names

Here heads write known words into a space that pictures share with texts.
"""

from vitlens.planted.construction import PLANTED, planted
from vitlens.planted.planted_vit import GroupedPictures, PlantedPictures, PlantedTruth, PlantedViT
from vitlens.planted.recovery import FeatureRecovery, feature_recovery
from vitlens.planted.sparse_code import FeaturePictures, PlantedFeatures, planted_features
from vitlens.planted.words import PlantedWords, WordPictures, planted_words

__all__ = [
    "PLANTED",
    "FeaturePictures",
    "FeatureRecovery",
    "GroupedPictures",
    "PlantedFeatures",
    "PlantedPictures",
    "PlantedTruth",
    "PlantedViT",
    "PlantedWords",
    "WordPictures",
    "feature_recovery",
    "planted",
    "planted_features",
    "planted_words",
]
