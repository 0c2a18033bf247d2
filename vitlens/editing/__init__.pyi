from .changes import Change as Change
from .changes import Directions as Directions
from .edit import Edit as Edit
from .edit import edit as edit
