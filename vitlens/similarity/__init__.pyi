from .components import patch_pca as patch_pca
from .maps import patch_similarity as patch_similarity
from .matches import nearest_patches as nearest_patches
from .results import NearestPatches as NearestPatches
from .results import PatchPCA as PatchPCA
from .results import PatchSimilarity as PatchSimilarity
