"""Vision transformers whose weights are constructed, not trained: their mechanism is known, and methods can be scored.

    from vitlens.planted import PLANTED, planted
    vit = planted("context_cue")
    pairs = vit.pictures(64)
    vit.model(pairs.images), vit.truth.heads, vit.truth.edges

Each is an ordinary timm VisionTransformer in which a small circuit decides the class. Everything else is busy too: idle
heads attend sharply and idle neurons fire, but they write where the circuit does not read.
"""

from vitlens.planted.construction import PLANTED, planted
from vitlens.planted.planted_vit import PlantedPictures, PlantedTruth, PlantedViT

__all__ = ["PLANTED", "PlantedPictures", "PlantedTruth", "PlantedViT", "planted"]
