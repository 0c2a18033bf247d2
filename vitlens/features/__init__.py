"""Features by dictionary learning: streams of activations to train on, and trained dictionaries at work in a model."""

from vitlens.features.activations import ActivationStream, stream_activations
from vitlens.features.dictionary import SparseAutoencoder, Transcoder
from vitlens.features.evaluation import DictionaryEvaluation, evaluate_sae
from vitlens.features.attribution import FeatureAttribution, feature_attribution
from vitlens.memories.dictionary import top_memory_patches
from vitlens.features.loading import load_sae
from vitlens.features.top_examples import TopPatches, top_patches
from vitlens.features.splice import SplicedDictionary, with_sae, with_saes

__all__ = [
    "ActivationStream",
    "DictionaryEvaluation",
    "FeatureAttribution",
    "SparseAutoencoder",
    "SplicedDictionary",
    "TopPatches",
    "Transcoder",
    "evaluate_sae",
    "feature_attribution",
    "load_sae",
    "stream_activations",
    "top_memory_patches",
    "top_patches",
    "with_sae",
    "with_saes",
]
