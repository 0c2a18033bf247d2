from .counterfactuals import replace_context as replace_context
from .masks import Masks as Masks
from .patches import PatchGrid as PatchGrid
from .picture_sets import PictureSet as PictureSet
from .picture_sets import open_pictures as open_pictures
from .preprocessing import Preprocessing as Preprocessing
