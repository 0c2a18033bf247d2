"""What patches share: components as colours, nearest patches of two pictures, likeness to a chosen patch.

`patch_pca` finds the directions along which the vectors of patches differ most, over all pictures together; its figure
shows three of them as red, green and blue. `nearest_patches` finds for each patch its nearest one in another picture.
`patch_similarity` compares every patch with a chosen one. All read any hook point that has a vector for each patch.
"""

from vitlens.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
