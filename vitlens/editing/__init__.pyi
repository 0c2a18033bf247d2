from .changes import Change as Change
from .changes import Directions as Directions
from .saving import save_checkpoint as save_checkpoint
