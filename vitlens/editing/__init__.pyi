from .changes import Change as Change
from .changes import Directions as Directions
